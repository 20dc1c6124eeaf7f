"""`pangu evaluate`: one pair, drawn and measured by a protocol, and the picture of what it drew.

Owns the order of things and the outcome's files. What is measured, and how, lies in the modules beside it.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from pangu.actors import Spread, crew
from pangu.config import Recipe, Sampling
from pangu.contract import GeneratorContract, check_turns
from pangu.data.card import Split
from pangu.data.encode.encoded import EncodedManifest
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.evaluate.eval_set import Material, can_judge_styles, gather, holds_out, proposed_prompts, styles_in
from pangu.evaluate.features import NAME
from pangu.evaluate.generate import Drawers, Drawn, Hand, alone, draw, ready
from pangu.evaluate.metrics import Judges, check_judges, implied_metrics
from pangu.evaluate.pair_sources import PairFolder
from pangu.evaluate.probe_latents import denoiser_of, encode_sample, originals
from pangu.evaluate.prompt_scores import prompt_scores, score
from pangu.evaluate.protocol import EvaluateOutcome, Metric, Protocol, check_metrics
from pangu.evaluate.scored_prompts import SUFFIX, PromptScores
from pangu.evaluate.timestep_loss import buckets, loss_by_bucket, mean_loss
from pangu.image_grid import png, sample_grid
from pangu.models.hashing import architecture, weights_hash
from pangu.models.schedulers import least_steps
from pangu.models.whole import is_whole_pipeline
from pangu.names import LATEST, encodings, resolve
from pangu.pipelines.adapted_styles import component_of
from pangu.pipelines.assemble import assemble_experts, assemble_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Reporter, silent
from pangu.storage import Home, read_json, write_atomically, write_json

GRID_COLUMNS = 24


def evaluate(
    structure: str | Path,
    texture: str | Path,
    recipe: Recipe,
    dataset: str,
    encode_id: str = LATEST,
    home: Home | None = None,
    report: Reporter = silent,
    protocol: Protocol | None = None,
    judges: Judges | None = None,
    spread: Spread | None = None,
    middles: Sequence[str | Path] = (),
) -> EvaluateOutcome:
    """Assemble the pair of two generator folders and measure it by `protocol`.

    protocol: None is retrieval, and understanding where rows are held out.

    encode_id, home: the latest, and that of the environment, where they are left out. spread: who draws beside this process.
    middles: experts between the two, the noisiest first.

    Raises:
        UserError: the two generators do not make a pair, or the dataset lacks what the protocol asks for.
    """
    home = home or Home.from_environment()
    if encode_id == LATEST:
        encode_id = resolve(encode_id, encodings(home, dataset), "encoded dataset", f"pangu encode {dataset}")
    generators = tuple(map(Path, (structure, *middles, texture)))
    contracts = [GeneratorContract.load(generator) for generator in generators]
    check_turns(contracts)
    version = EncodedManifest.load(home.encoded(dataset, encode_id)).version
    judges = judges or Judges()
    protocol = protocol or plan(recipe, home, dataset, version, judges)
    check_judges(protocol.metrics, judges)
    pair_id = pair_digest(*generators)
    folder = home.pair(pair_id)
    outcome = folder.with_name(f"{pair_id}-{protocol.digest()}{_elsewhere(contracts, dataset, version)}.json")
    if is_whole_pipeline(folder) and (earlier := _earlier(outcome, str(folder))):
        return earlier

    prompts = proposed_prompts(home, dataset, version)
    if middles:
        pair: PanGuDrawPipeline = assemble_experts(generators, recipe, folder, prompts)
    else:
        pair = assemble_pair(generators[0], generators[-1], recipe, folder, prompts)
    return _measured(
        pair,
        pair_id,
        str(folder),
        home,
        dataset,
        version,
        protocol,
        judges,
        report,
        outcome,
        spread,
        PairFolder(folder, protocol),
    )


def evaluate_whole(
    pair: PanGuDrawPipeline,
    place: str,
    home: Home,
    dataset: str,
    version: int,
    protocol: Protocol,
    judges: Judges | None = None,
    report: Reporter = silent,
) -> EvaluateOutcome:
    """Measure a pair as it is, such as the embedded one, on a dataset version; its files lie under the home's `evaluated`.

    place: where the pair was loaded from, for the outcome.

    Raises:
        UserError: the protocol asks for what the dataset lacks, or for judges that are not the given ones.
    """
    judges = judges or Judges()
    check_judges(protocol.metrics, judges)
    pair_id = networks_hash(pair)
    outcome = home.root / "evaluated" / f"{pair_id}-{protocol.digest()}-{dataset}-{version}.json"
    if earlier := _earlier(outcome, place):
        return earlier
    return _measured(pair, pair_id, place, home, dataset, version, protocol, judges, report, outcome)


def _elsewhere(contracts: Sequence[GeneratorContract], dataset: str, version: int) -> str:
    """What the name of an outcome says of its dataset: nothing where a half was trained on it, or nobody knows on what."""
    trained = {(contract.dataset, contract.dataset_version) for contract in contracts if contract.dataset}
    return f"-{dataset}-{version}" if trained and (dataset, version) not in trained else ""


def _files(outcome: Path) -> tuple[Path, Path]:
    """(what every prompt reached, the picture), which lie beside an outcome."""
    return outcome.with_name(outcome.stem + SUFFIX), outcome.with_suffix(".png")


def _earlier(outcome: Path, place: str) -> EvaluateOutcome | None:
    """The outcome of an earlier evaluation, if all of its files are there; the pair now lies at `place`."""
    by_prompt, grid = _files(outcome)
    if not all(path.is_file() for path in (outcome, by_prompt, grid)):
        return None
    places = {"pair": place, "sample_grid": str(grid), "prompt_scores": str(by_prompt), "already_done": True}
    return EvaluateOutcome.model_validate(read_json(outcome) | places)


def _measured(
    pair: PanGuDrawPipeline,
    pair_id: str,
    place: str,
    home: Home,
    dataset: str,
    version: int,
    protocol: Protocol,
    judges: Judges,
    report: Reporter,
    outcome: Path,
    spread: Spread | None = None,
    source: PairFolder | None = None,
) -> EvaluateOutcome:
    """Draw and measure, and leave the outcome, what every prompt reached, and the picture in files beside each other."""
    by_prompt, grid = _files(outcome)
    pair = ready(pair, protocol)
    material = gather(home, dataset, version, protocol, pair.resolution)
    if source is None:
        drawn = draw(alone(pair), material, protocol, report)
    else:
        with crew("evaluate", Hand, spread or Spread(), partial(Hand, source, pair), joins=True) as workers:
            drawn = draw(Drawers(workers, source), material, protocol, report)
    found = prompt_scores(material, drawn, protocol, judges)
    found.save(by_prompt)
    metrics = score(material, drawn, protocol, judges, found)
    if "loss" in protocol.metrics:
        metrics |= pair_losses(pair, home, dataset, version, protocol)
    write_atomically(grid, png(grid_of(material, drawn)))
    result = EvaluateOutcome(
        pair_id=pair_id,
        pair=place,
        metrics=metrics,
        protocol=protocol,
        protocol_hash=protocol.digest(),
        sample_grid=str(grid),
        prompt_scores=str(by_prompt),
    )
    write_json(outcome, result.model_dump(mode="json"))
    return result


def scores_of(
    pair: PanGuDrawPipeline,
    home: Home,
    dataset: str,
    version: int,
    protocol: Protocol,
    judges: Judges,
    report: Reporter,
    grid: Path | None = None,
) -> PromptScores:
    """What any pair's images reach by a protocol, prompt by prompt; the pair draws at its own resolution.

    Where the steps of the protocol leave one of its experts without one, it takes as many as it prefers, and the scores say so.

    grid: where a picture of what it drew goes, laid out as that of `evaluate`.

    Raises:
        UserError: the protocol asks for what the dataset lacks, or for judges that are not the given ones.
    """
    check_judges(protocol.metrics, judges)
    if judges.weights != protocol.weights:
        raise UserError("The evaluation was judged by other networks than those named here; name the same ones.")
    pair = ready(pair, protocol)
    own_steps = None
    if pair.idle(pair.scheduler, protocol.num_inference_steps):
        own_steps = max(pair.sampling.num_inference_steps, least_steps(pair.scheduler, pair.lows))
        protocol = protocol.model_copy(update={"num_inference_steps": own_steps})
    material = gather(home, dataset, version, protocol, pair.resolution)
    drawn = draw(alone(pair), material, protocol, report)
    if grid is not None:
        write_atomically(grid, png(grid_of(material, drawn)))
    return prompt_scores(material, drawn, protocol, judges).model_copy(update={"own_steps": own_steps})


def plan(
    recipe: Recipe,
    home: Home,
    dataset: str,
    version: int,
    judges: Judges,
    split: Split | None = None,
    metrics: Sequence[str] | None = None,
    style_scale: float = 1.0,
    **changes: object,
) -> Protocol:
    """The protocol of a recipe: its sampling, what the judges are for, held-out rows and styles where the dataset has any.

    style_scale: at which a prompt asks for the style of its row, where the recipe knows that style.

    Raises:
        UserError: an unknown metric, or one whose judge was not given.
    """
    styles = {style: style_scale for style in styles_in(home, dataset, version) if style in recipe.styles}
    implied = implied_metrics(judges, can_judge_styles(home, dataset, version, styles))
    chosen: tuple[Metric, ...] = check_metrics(metrics) if metrics is not None else implied
    check_judges(chosen, judges)
    if "style" in chosen and not styles:
        raise UserError(f"The metric 'style' needs rows in a style that the recipe knows; '{dataset}' has none.")
    sampling = {
        "num_inference_steps": recipe.sampling.num_inference_steps,
        "guidance_scale": recipe.sampling.guidance_scale,
        "texture_guidance": recipe.sampling.texture_guidance,
    }
    return Protocol.model_validate(
        sampling
        | {
            "split": split or ("held_out" if holds_out(home, dataset, version) else "train"),
            "metrics": chosen,
            "feature_space": "inception" if judges.inception is not None else NAME,
            "weights": judges.weights,
            "styles": styles,
        }
        | changes
    )


def as_sampled(recipe: Recipe, pair: PanGuDrawPipeline) -> Recipe:
    """The recipe with the styles and the sampling that a whole pair brings along, for the protocol that measures it."""
    # Of styles only their names matter here; those that are adapters have no prefix.
    found: dict[str, object] = {
        "styles": dict.fromkeys(pair.adapted_styles, "") | dict(pair.config.get("styles") or {})
    }
    if sampling := pair.config.get("sampling"):
        found["sampling"] = Sampling.model_validate(dict(sampling))
    return recipe.model_copy(update=found)


def pair_digest(*generators: Path) -> str:
    """Id of the pair of generator folders, the noisiest first: a function of their weights and contracts."""
    digest = hashlib.sha256()
    for folder in generators:
        for name in ("contract.json", "config.json", "diffusion_pytorch_model.safetensors"):
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def networks_hash(pair: PanGuDrawPipeline) -> str:
    """16 hex digits that tell a pair from another: its networks, the adapters of its styles, and its contracts, which name the
    autoencoder and the text encoders that it was trained with."""
    networks = [pair.generator(role) for role in pair.roles]
    networks += [own for role in pair.roles if (own := pair.components.get(component_of(role))) is not None]
    halves = [weights_hash(network, architecture(network.config)) for network in networks]
    contracts = [pair.contract(role).model_dump_json() for role in pair.roles]
    return hashlib.sha256("".join([*halves, *contracts]).encode()).hexdigest()[:16]


def pair_losses(
    pair: PanGuDrawPipeline, home: Home, dataset: str, version: int, protocol: Protocol
) -> dict[str, float]:
    """`loss_ROLE` over each generator's interval and `loss_ROLE_tLOW` over each bucket of it, at the pair's resolution."""
    known = pair.config.get("styles") or {}
    prefixes = {style: known[style] for style in protocol.styles if style in known}
    images, captions = originals(home, dataset, version, protocol.split, protocol.loss_images, protocol.seed, prefixes)
    metrics: dict[str, float] = {}
    sample, read = None, None
    for role in pair.roles:
        contract = pair.contract(role)
        if sample is None or contract.reads != read:
            towers, read = pair.towers_of(role), contract.reads
            sample = encode_sample(images, captions, pair.resolution, pair.vae, towers, contract.max_tokens)
            metrics["loss_images"] = float(len(sample))
        total, whole = contract.schedule.num_train_timesteps, protocol.loss_range == "whole"
        parts = buckets(TimeInterval(0, total) if whole else contract.interval, total, protocol.loss_buckets)
        denoiser = denoiser_of(pair.components[role], contract, pair.resolution, whole)
        found = loss_by_bucket(denoiser, sample, parts, contract.schedule, protocol.seed)
        metrics |= {f"loss_{role}": mean_loss(found)} | {f"loss_{role}_t{part.low:03d}": part.loss for part in found}
    return metrics


LANGUAGE_NAMES = {"en": "English captions", "zh": "Chinese captions"}
KINDS = {"held_out": "held-out ", "templates": "templates, ", "keywords": "keywords, "}
"""What is said of kinds of prompts; nothing of those of the training split."""


def grid_of(material: Material, drawn: Drawn) -> Image.Image:
    """What was drawn above the true images, with the names of its rows and the captions of the first kind of prompts."""
    named: list[str] = []
    for ask, prompts in material.prompts.items():
        named += [KINDS.get(ask, "") + LANGUAGE_NAMES.get(name, name) for name in prompts.captions]
        named.append("the true pictures")
    first = next(iter(material.prompts.values()))
    captions = next(iter(first.captions.values()))[:GRID_COLUMNS]
    return sample_grid(grid_rows(material, drawn), named=named, captions=captions)


def grid_rows(material: Material, drawn: Drawn) -> list[list[Image.Image]]:
    """Per kind of prompt: a row of drawn images for each language, above their true images."""
    rows = []
    for ask, prompts in material.prompts.items():
        rows += [drawn[ask, language][:GRID_COLUMNS] for language in prompts.captions]
        rows.append([material.images[key] for key in prompts.keys[:GRID_COLUMNS]])
    return rows
