"""How far a run is whose workers are other processes: its history, read as it grows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pangu.progress import Progress, Reporter
from pangu.train.history import HISTORY_FILE, read_history
from pangu.train.job import TrainJob

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def followed(job: TrainJob, report: Reporter) -> Iterator[None]:
    """Report every new line of the run's history inside the block, and the last ones when it ends."""
    history, total = job.run_folder / HISTORY_FILE, job.recipe.training(job.role).steps
    ended = threading.Event()

    before = max((line.step for line in read_history(history)), default=0)

    def follow() -> None:
        step, last = before, False
        while not last:
            last = ended.wait(SECONDS_BETWEEN_LOOKS)
            for line in read_history(history, step):
                step = line.step
                report(Progress(stage=f"train-{job.role}", done=step, total=total, unit="steps", facts=line.metrics))

    report(Progress(stage=f"train-{job.role}", done=0, total=total, unit="steps"))
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
