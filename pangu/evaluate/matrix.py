"""`pangu pair-matrix`: N structure x M texture generators, every pair scored by one protocol, the best one proposed for release.

A structure generator draws each prompt up to the boundary once; every texture generator finishes the same trajectories.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from PIL import Image
from pydantic import Field

from pangu.actors import Spread, crew
from pangu.config import Frozen, Recipe
from pangu.contract import GeneratorContract, check_pair, check_turns
from pangu.data.encode.encoded import EncodedManifest
from pangu.errors import UserError
from pangu.evaluate.eval_set import Material, gather
from pangu.evaluate.evaluation import pair_digest, pair_losses, plan
from pangu.evaluate.generate import Drawers, Drawn, Halfway, Hand, structure_half, texture_half
from pangu.evaluate.matrix_picture import Cell, draw, labels
from pangu.evaluate.metrics import Judges, check_judges
from pangu.evaluate.pair_sources import Halves
from pangu.evaluate.prompt_scores import score
from pangu.evaluate.protocol import Protocol, lower_is_better
from pangu.image_grid import png
from pangu.models.autoencoders import load_autoencoder
from pangu.models.placeholder_tokens import text_towers_of
from pangu.pipelines.assemble import check_encoders
from pangu.progress import Reporter, silent
from pangu.storage import Home, write_atomically, write_json

SHOWN = 6
BESIDE = " + "
"""Between the names of experts that stand below one structure generator."""
PREFERENCES = ("understanding_top1", "retrieval_top1", "clip_score", "cn_clip_score", "fid", "kid", "is", "loss")
"""What ranks pairs if nobody says: the first of these that the protocol measures."""


class PairScore(Frozen):
    """One pair of the matrix."""

    structure: str
    texture: str
    middles: tuple[str, ...] = Field((), exclude_if=lambda value: not value, description="Experts between the two")
    pair_id: str
    metrics: dict[str, float]


class MatrixOutcome(Frozen):
    """All pairs, best first, and the one to release: `pangu evaluate` on its two folders makes the pair folder."""

    ranked_by: tuple[str, ...]
    best: PairScore
    pairs: tuple[PairScore, ...] = Field(description="Best first")
    protocol: Protocol
    protocol_hash: str
    table: str
    picture: str


def matrix(
    structures: Sequence[Path],
    textures: Sequence[Path],
    recipe: Recipe,
    dataset: str,
    encode_id: str,
    home: Home,
    folder: Path,
    report: Reporter = silent,
    protocol: Protocol | None = None,
    judges: Judges | None = None,
    rank_by: str | None = None,
    spread: Spread | None = None,
    middles: Sequence[Path] = (),
) -> MatrixOutcome:
    """Score every structure with every texture generator; leaves `matrix.json` and `matrix.png` in `folder`.

    spread: who draws beside this process. middles: generators of experts between the two; of several for one interval each
    stands in every combination, as structures and textures do.

    Raises:
        UserError: a combination makes no pair, a folder is named twice, or `rank_by` is not measured.
    """
    contracts = check_all(structures, textures, middles)
    below = lower_experts(textures, middles, contracts)
    judges = judges or Judges()
    version = EncodedManifest.load(home.encoded(dataset, encode_id)).version
    protocol = protocol or plan(recipe, home, dataset, version, judges)
    check_judges(protocol.metrics, judges)
    towers = text_towers_of(recipe)
    autoencoder = load_autoencoder(recipe.autoencoder)
    for contract in contracts.values():
        check_encoders(contract, autoencoder, towers)

    material = gather(home, dataset, version, protocol, recipe.structure.resolution)
    scores: list[PairScore] = []
    shown: dict[tuple[str, str], list[Image.Image]] = {}
    own = Hand()
    with crew("matrix", Hand, spread or Spread(), lambda: own, joins=True) as workers:
        for structure in structures:
            halfway: Halfway = []
            for *between, texture in below:
                drawers = Drawers(workers, Halves(structure, texture, recipe, protocol, tuple(between)))
                halfway = halfway or structure_half(drawers, material, protocol, report)
                drawn = texture_half(drawers, halfway, material, report)
                metrics = score(material, drawn, protocol, judges)
                if "loss" in protocol.metrics:
                    metrics |= pair_losses(own.pair(drawers.source), home, dataset, version, protocol)
                scores.append(
                    PairScore(
                        structure=str(structure),
                        texture=str(texture),
                        middles=tuple(map(str, between)),
                        pair_id=pair_digest(structure, *between, texture),
                        metrics=metrics,
                    )
                )
                shown[str(structure), _named(between, texture)] = _samples(material, drawn, protocol)
    ranked_by = ranking_metrics(scores[0].metrics, rank_by)
    ranked = rank(scores, ranked_by)
    outcome = MatrixOutcome(
        ranked_by=ranked_by,
        best=ranked[0],
        pairs=tuple(ranked),
        protocol=protocol,
        protocol_hash=protocol.digest(),
        table=str(folder / "matrix.json"),
        picture=str(folder / "matrix.png"),
    )
    write_atomically(folder / "matrix.png", png(draw(_cells(outcome, shown), ranked_by[0], outcome.protocol_hash)))
    write_json(folder / "matrix.json", outcome.model_dump(mode="json"))
    return outcome


def check_all(
    structures: Sequence[Path], textures: Sequence[Path], middles: Sequence[Path] = ()
) -> dict[Path, GeneratorContract]:
    """The contracts of all folders, every combination of which makes a pair, or more experts that take turns.

    Raises:
        UserError: no folder of one role, a folder twice, or a combination with a gap, an overlap or a mismatch.
    """
    for role, folders in (("structure", structures), ("middle", middles), ("texture", textures)):
        if not folders and role != "middle":
            raise UserError(f"The pair matrix needs at least one --{role} folder.")
        if len(set(folders)) < len(folders):
            raise UserError(f"The pair matrix was given a --{role} folder twice; name each once.")
    contracts = {folder: GeneratorContract.load(folder) for folder in (*structures, *middles, *textures)}
    for structure in structures:
        for lower in lower_experts(textures, middles, contracts):
            names = " and ".join(map(str, (structure, *lower)))
            try:
                if middles:
                    check_turns([contracts[folder] for folder in (structure, *lower)])
                else:
                    check_pair(contracts[structure], contracts[lower[0]])
            except UserError as error:
                raise UserError(f"{names} make no pair: {error}") from error
    return contracts


def lower_experts(
    textures: Sequence[Path], middles: Sequence[Path], contracts: Mapping[Path, GeneratorContract]
) -> list[tuple[Path, ...]]:
    """What can stand below a structure generator, the noisiest first: one expert of each interval between, and one texture."""
    by_interval: dict[tuple[int, int], list[Path]] = {}
    for folder in sorted(middles, key=lambda one: -contracts[one].high):
        by_interval.setdefault((contracts[folder].high, contracts[folder].low), []).append(folder)
    return list(product(*by_interval.values(), textures))


def ranking_metrics(metrics: dict[str, float], rank_by: str | None) -> tuple[str, ...]:
    """What ranks pairs, and what breaks ties: of top-1 shares the top-5 share and then the similarity.

    Raises:
        UserError: `rank_by` is not among the measured metrics, or none that could rank is.
    """
    if rank_by is not None and rank_by not in metrics:
        raise UserError(f"--rank-by '{rank_by}' is not measured; choose from {', '.join(sorted(metrics))}.")
    found = [
        name
        for wanted in PREFERENCES
        for name in sorted(metrics, key=len)  # the plain name, the worst of the languages, is the shortest
        if name == wanted or name.startswith(f"{wanted}_")
    ]
    if rank_by is None and not found:
        raise UserError(f"None of {', '.join(sorted(metrics))} can rank pairs; name another with --rank-by.")
    first = rank_by or found[0]
    ties = [first.replace("top1", other) for other in ("top5", "similarity")] if "top1" in first else []
    return (first, *(name for name in ties if name in metrics))


def rank(scores: Sequence[PairScore], ranked_by: Sequence[str]) -> list[PairScore]:
    """Best first; equal pairs stay in the order in which they were named."""

    def place(one: PairScore) -> tuple[float, ...]:
        return tuple(one.metrics[name] * (1 if lower_is_better(name) else -1) for name in ranked_by)

    return sorted(scores, key=place)


def _named(between: Sequence[str | Path], texture: str | Path) -> str:
    """What the picture calls the experts below a structure generator."""
    return BESIDE.join(map(str, (*between, texture)))


def _samples(material: Material, drawn: Drawn, protocol: Protocol) -> list[Image.Image]:
    """The first few images of the judged split, the languages in turn."""
    languages = material.languages
    rows = [drawn[protocol.split, language] for language in languages]
    per_language = -(-SHOWN // len(languages))
    return [image for row in rows for image in row[:per_language]][:SHOWN]


def _cells(outcome: MatrixOutcome, shown: dict[tuple[str, str], list[Image.Image]]) -> list[Cell]:
    first = outcome.ranked_by[0]
    places = {(one.structure, _named(one.middles, one.texture)): index for index, one in enumerate(outcome.pairs)}
    folders = [folder for one in outcome.pairs for folder in (one.structure, *one.middles, one.texture)]
    short = labels(list(dict.fromkeys(folders))) if any(one.middles for one in outcome.pairs) else {}

    def called(names: str) -> str:
        return BESIDE.join(short.get(name, name) for name in names.split(BESIDE))

    return [
        Cell(called(structure), called(below), outcome.pairs[place].metrics[first], place, tuple(images))
        for (structure, below), images in shown.items()
        for place in (places[structure, below],)
    ]
