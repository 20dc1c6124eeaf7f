"""The gate with real pairs: the candidate's evaluation, the champion out of the registry, drawn on the same prompts.

Owns where the champion's scores are kept, so that one champion is drawn once for a protocol and a dataset version.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pangu.config import Gate
from pangu.errors import UserError
from pangu.evaluate.evaluation import scores_of
from pangu.evaluate.judges import Judges
from pangu.evaluate.prompt_scores import PromptScores
from pangu.evaluate.protocol import EvaluateOutcome
from pangu.gate.decision import Decision, decide
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Reporter, silent
from pangu.registry import tracking
from pangu.registry.fetch import RegisteredPair, fetch_pair, resolve
from pangu.registry.manifest import Manifest
from pangu.storage import Home, read_json


def check_pair_at_gate(
    evaluated: Path,
    gate: Gate,
    dataset: str,
    version: int,
    home: Home,
    judges: Judges | None = None,
    report: Reporter = silent,
    alias: str = tracking.CHAMPION,
) -> Decision:
    """Decide whether the pair of an evaluation may take the place of the registered pair that `alias` names.

    Args:
        evaluated: the `--result` of `pangu evaluate`.
        dataset, version: what the pair was evaluated on; the champion draws the same prompts.

    Raises:
        UserError: the file is no evaluation, a rule asks for what was not measured, or no MLflow server answers.
    """
    outcome = read_outcome(evaluated)
    champion = current(alias)
    if champion is not None and Manifest.of(Path(outcome.pair)).sha256 == champion.sha256:
        return Decision(
            passed=True,
            reason=f"It is version {champion.pair_version}, the champion itself.",
            verdicts=(),
            pair_id=outcome.pair_id,
            champion_version=champion.pair_version,
            protocol_hash=outcome.protocol_hash,
            confidence=gate.confidence,
            already_done=True,
        )
    mine = PromptScores.load(Path(outcome.prompt_scores))
    theirs, grid = None, None
    if champion is not None:
        kept = home.root / "gate" / f"{champion.sha256[:16]}-{outcome.protocol_hash}-{dataset}-{version}.json"
        grid = kept.with_suffix(".png")

        def draw() -> PromptScores:
            pair = PanGuDrawPipeline.from_pretrained(fetch_pair(champion.pair_version, home.root / "fetched"))
            return scores_of(pair, home, dataset, version, outcome.protocol, judges or Judges(), report, grid)

        theirs = once(kept, draw)
    version_of_champion = champion.pair_version if champion else None
    decision = decide(gate, outcome.pair_id, outcome.metrics, mine, theirs, version_of_champion, outcome.protocol_hash)
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


def once(path: Path, draw: Callable[[], PromptScores]) -> PromptScores:
    """The scores kept at `path`; drawn and kept if there are none."""
    if path.is_file():
        return PromptScores.load(path)
    found = draw()
    found.save(path)
    return found
