"""*Cancel*, pressed while a stage is at work: everything that the run started must be gone.

A fault like the others: afterwards the same retraining is asked for again, and goes on.
"""

import time
from collections.abc import Callable
from random import Random

import httpx

from pangu.retrain.button import Button
from pangu.stack import Stack
from tests.faults.chaos.faults import Broken, Fault
from tests.faults.chaos.oracle import living_jobs, processes_of, runs_under_way

PATIENCE_S = 120.0
"""What is left after so long is left for good. How much sooner it is gone is a figure, and depends on how busy the machine is."""
STAGES = ("ingest", "prepare", "encode", "train-structure", "train-texture", "evaluate", "deploy")


def cancels(note: Callable[[float], None]) -> tuple[Fault, ...]:
    """A cancellation in each stage; `note` hears how many seconds each took."""
    return tuple(Fault(f"cancel in {stage}", cancelling(stage, note)) for stage in STAGES)


def cancelling(stage: str, note: Callable[[float], None]) -> Callable[[Stack, Random], str | None]:
    """Cancel the run under way if it is in that stage, and wait until nothing of it is left.

    Raises:
        Broken: something stayed.
    """

    def inject(stack: Stack, rng: Random) -> str | None:
        button = Button(stack, "retrain-pair")
        for run_id in runs_under_way(stack):
            view = button.look(run_id)
            if any(one.name == stage and one.state == "RUNNING" for one in view.stages):
                time.sleep(rng.uniform(0, 2))
                seconds = cancel(stack, button, run_id)
                note(seconds)
                if seconds >= PATIENCE_S:
                    raise Broken(f"cancelled in {stage}, and something was left after {seconds:.0f} s")
                return f"gone after {seconds:.1f} s"
        return None

    return inject


def cancel(stack: Stack, button: Button, run_id: str) -> float:
    """Seconds until the run is Cancelled and neither a process nor a job of it lives."""
    began = time.monotonic()
    button.cancel(run_id)
    while time.monotonic() - began < PATIENCE_S:
        over = button.look(run_id).is_final
        if over and not processes_of(run_id) and not jobs_of(stack, run_id):
            break
        time.sleep(0.2)
    return time.monotonic() - began


def jobs_of(stack: Stack, run_id: str) -> list[str]:
    try:
        return [job for job in living_jobs(stack) if job.startswith(run_id)]
    except httpx.HTTPError:  # without a head there are no jobs
        return []
