"""What the page of trainings shows: both halves beside each other, their curves and sample grids."""

from pathlib import Path
from typing import Any

from pangu.errors import UserError
from pangu.names import runs
from pangu.storage import Home, read_json
from pangu.train.curves import curves_of
from pangu.train.history import HISTORY_FILE, SAMPLES_FOLDER, read_history
from pangu.train.job import TrainJob, read_job

SHOWN_PAIRS = 20
GRID = "step-{:06d}.png"
SHOWN_METRICS = ("images_per_s", "memory_gib", "lr")


def trainings(home: Home) -> list[dict[str, Any]]:
    """Runs that belong together, those that wrote last first; at most `SHOWN_PAIRS` of them."""
    found: dict[str, dict[str, Any]] = {}
    newest: dict[str, float] = {}
    for run in sorted(runs(home), key=lambda one: -one.age):
        job = read_job(home.run(run.id))
        if job is None:
            continue
        dataset = job.encoded.parents[1].name
        first: dict[str, Any] = {
            "recipe": job.recipe.name,
            "dataset": dataset,
            "sheet": made_ms(sheet_of(home, dataset)),
            "runs": [],
        }
        group = found.setdefault(job.pair, first)
        # The newest run of each half: a half that was trained again replaces the earlier one here.
        if job.role not in (one["role"] for one in group["runs"]):
            group["runs"].append(summary(home.run(run.id), job))
            newest[job.pair] = max(newest.get(job.pair, 0.0), _written(home.run(run.id)))
    order = sorted(found, key=lambda pair: -newest[pair])[:SHOWN_PAIRS]
    return [found[pair] | {"runs": sorted(found[pair]["runs"], key=lambda one: one["role"])} for pair in order]


def summary(folder: Path, job: TrainJob) -> dict[str, Any]:
    """One run: how far it is, its newest figures, and the steps of which it has a sample grid."""
    lines = read_history(folder / HISTORY_FILE)
    last = lines[-1] if lines else None
    return {
        "run": folder.name,
        "role": job.role,
        "steps": job.recipe.training(job.role).steps,
        "step": last.step if last else 0,
        "updated_ms": last.time_ms if last else 0,
        "finished": (folder / "outcome.json").is_file(),
        "loss": last.metrics.get("loss") if last else None,
        "metrics": {name: last.metrics[name] for name in SHOWN_METRICS if last and name in last.metrics},
        "grids": grids_of(folder),
    }


def curves(home: Home, run: str) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of every loss of a run.

    Raises:
        UserError: there is no such run.
    """
    return curves_of(read_history(folder_of(home, run) / HISTORY_FILE))


def captions(home: Home, run: str) -> list[dict[str, Any]]:
    """What the pictures of the grids were asked for, in their order; none before the first.

    Raises:
        UserError: there is no such run.
    """
    path = folder_of(home, run) / SAMPLES_FOLDER / "captions.json"
    return list(read_json(path)) if path.is_file() else []


def grid(home: Home, run: str, step: int) -> bytes:
    """PNG of the sample grid of a step.

    Raises:
        UserError: there is no such run, or it drew none at this step.
    """
    folder = folder_of(home, run)
    if step not in grids_of(folder):
        raise UserError(f"Run '{run}' has no sample grid of step {step}.")
    return (folder / SAMPLES_FOLDER / GRID.format(step)).read_bytes()


def sheet(home: Home, dataset: str) -> bytes:
    """PNG of the same prompts before and after the newest retraining of a dataset that `pangu retrain` saw to its end.

    Raises:
        UserError: there is no such dataset, or no such picture.
    """
    known = (folder.name for folder in (home.root / "datasets").glob("*/"))
    found = sheet_of(home, dataset) if dataset in known else None
    if found is None:
        raise UserError(f"There is no picture of before and after of '{dataset[:64]}'; `pangu retrain` draws one.")
    return found.read_bytes()


def sheet_of(home: Home, dataset: str) -> Path | None:
    """The file of that picture; None where there is none."""
    return max(home.dataset(dataset).glob("before_after-*.png"), key=lambda path: path.stat().st_mtime, default=None)


def made_ms(path: Path | None) -> int | None:
    return None if path is None else int(path.stat().st_mtime * 1000)


def folder_of(home: Home, run: str) -> Path:
    """Of one of the home's runs, so that no path comes from a request.

    Raises:
        UserError: there is no such run.
    """
    if run not in (one.id for one in runs(home)):
        raise UserError(f"There is no run '{run[:64]}' in this home.")
    return home.run(run)


def grids_of(folder: Path) -> list[int]:
    """Steps, in order."""
    names = (path.stem.removeprefix("step-") for path in (folder / SAMPLES_FOLDER).glob("step-*.png"))
    return sorted(int(name) for name in names if name.isdecimal())


def _written(folder: Path) -> float:
    path = folder / HISTORY_FILE
    try:
        return path.stat().st_mtime
    except OSError:  # nothing yet
        return 0.0
