"""The gate with real pairs: the candidate's evaluation, and the champion or the start of training on the same prompts.

Owns where the scores of such a reference are kept, so that it draws once for a protocol and a dataset version. Networks
are imported where one draws: most decisions need none.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pangu.config import Recipe
from pangu.errors import UserError
from pangu.evaluate.protocol import EvaluateOutcome, Protocol
from pangu.evaluate.scored_prompts import PromptScores
from pangu.gate.decision import Decision, Reference, compares, decide
from pangu.progress import Reporter, silent
from pangu.registry import tracking
from pangu.registry.fetch import RegisteredPair, fetch_pair, registered_pair, resolve
from pangu.registry.manifest import Manifest
from pangu.storage import Home, read_json

if TYPE_CHECKING:
    from pangu.evaluate.metrics import Judges
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def check_pair_at_gate(
    evaluated: Path,
    recipe: Recipe,
    dataset: str,
    version: int,
    home: Home,
    judges: "Judges | None" = None,
    report: Reporter = silent,
    alias: str = tracking.CHAMPION,
) -> Decision:
    """Decide by the recipe's rules whether the pair of an evaluation may take the place of the registered pair `alias`.

    While there is none, the pair is held against what its training started from: the recipe's `init_from`, or random weights,
    than which it must be shown better. A recipe whose gate has no floor lets any first pair pass, and the decision says so.

    Args:
        evaluated: the `--result` of `pangu evaluate`.
        dataset, version: what the pair was evaluated on; the reference draws the same prompts.

    Raises:
        UserError: the file is no evaluation, a rule asks for what was not measured, or no MLflow server answers.
    """
    outcome, fetched = read_outcome(evaluated), home.root / "fetched"
    champion = current(alias)
    if champion is not None and Manifest.of(Path(outcome.pair)).sha256 == champion.sha256:
        return Decision(
            passed=True,
            reason=f"It is version {champion.pair_version}, the champion itself.",
            verdicts=(),
            pair_id=outcome.pair_id,
            champion_version=champion.pair_version,
            protocol_hash=outcome.protocol_hash,
            confidence=recipe.gate.confidence,
            already_done=True,
        )
    reference, grid = None, None
    drawn = partial(drawn_once, outcome.protocol, dataset, version, home, judges, report)
    if champion is not None:
        released, number = champion.sha256[:16], champion.pair_version
        scores, grid = drawn(released, lambda: _released(number, fetched))
        steps = "" if scores.own_steps is None else f" in {scores.own_steps} steps"
        reference = Reference(f"version {number}{steps}", scores, number)
    elif recipe.gate.floor == "start" and compares(recipe.gate):
        from pangu.evaluate.evaluation import networks_hash
        from pangu.pipelines.assemble import starting_pair

        start = starting_pair(recipe, partial(registered_pair, cache_dir=fetched))
        scores, grid = drawn(f"start-{networks_hash(start)}", lambda: start)
        untrained = recipe.init_from is None
        name = "an untrained pair" if untrained else "what training started from"
        reference = Reference(name, scores, untrained=untrained)
    mine = PromptScores.load(Path(outcome.prompt_scores))
    decision = decide(recipe.gate, outcome.pair_id, outcome.metrics, mine, reference, outcome.protocol_hash)
    return decision.model_copy(update={"champion_grid": str(grid) if grid is not None and grid.is_file() else ""})


def read_outcome(path: Path) -> EvaluateOutcome:
    """Raises UserError if the file does not hold the outcome of `pangu evaluate`."""
    try:
        fields: Any = read_json(path)
        return EvaluateOutcome.model_validate(fields)
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"{path} does not hold the outcome of `pangu evaluate`; pass its --result.") from error


def current(alias: str) -> RegisteredPair | None:
    """The registered pair that the alias names; None while there is none."""
    if tracking.alias_version(tracking.connect(), tracking.PAIR, alias) is None:
        return None
    return resolve(alias)


def _released(number: int, fetched: Path) -> "PanGuDrawPipeline":
    from pangu.pipelines.experts_pipeline import load_pair

    return load_pair(fetch_pair(number, fetched))


def drawn_once(
    protocol: Protocol,
    dataset: str,
    version: int,
    home: Home,
    judges: "Judges | None",
    report: Reporter,
    name: str,
    make: "Callable[[], PanGuDrawPipeline]",
) -> tuple[PromptScores, Path]:
    """The scores of the pair `name`, and the picture of what it drew; it is made and draws only if nobody kept them."""
    kept = home.root / "gate" / f"{name}-{protocol.digest()}-{dataset}-{version}.json"
    grid = kept.with_suffix(".png")
    if kept.is_file():
        return PromptScores.load(kept), grid
    from pangu.evaluate.evaluation import scores_of
    from pangu.evaluate.metrics import Judges

    found = scores_of(make(), home, dataset, version, protocol, judges or Judges(), report, grid)
    found.save(kept)
    return found, grid
