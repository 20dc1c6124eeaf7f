"""Many shards, several workers: in this process, in processes of this machine, or in Ray Data's actors on a cluster.

Ray pays where one machine is too slow; on one machine plain processes start faster.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from pangu.errors import UserError

Worker = Callable[[Any], Any]
_worker: Worker | UserError | None = None


@dataclass(frozen=True)
class WorkerSettings:
    """How rows are made: it changes how long that takes, not what comes out.

    threads: ncnn's for one image. workers: processes, or Ray actors. on_ray: in the cluster that RAY_ADDRESS names.
    """

    threads: int = 1
    workers: int = 1
    on_ray: bool = False


ALONE = WorkerSettings()
"""In this process."""


def map_unordered(make: Callable[[], Worker], jobs: Sequence[Any], workers: int, on_ray: bool) -> Iterator[Any]:
    """What a worker returns for each job, as they finish.

    Args:
        make: Called once in every process; what it returns is called with each job. Both travel by pickle.
        on_ray: In actors of the cluster that RAY_ADDRESS names, which see the same storage.
    """
    if not jobs:
        return
    if on_ray:
        yield from _on_ray(make, jobs, workers)
    elif workers == 1:
        worker = make()
        yield from map(worker, jobs)
    else:
        yield from _in_processes(make, jobs, min(workers, len(jobs)))


def _in_processes(make: Callable[[], Worker], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    # Not forked from here, because that would inherit the threads of Arrow and ncnn in whatever state they are; the fork server
    # imports once and has none.
    context = get_context("forkserver")
    context.set_forkserver_preload(["pangu.data.prepare.make_rows"])
    with ProcessPoolExecutor(workers, context, _start, (make,)) as pool:
        futures = [pool.submit(_run, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process was killed, most likely for want of memory; run the same command again with fewer workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(make: Callable[[], Worker]) -> None:
    global _worker
    try:
        _worker = make()
    except UserError as error:
        _worker = error  # raised here, it would break the pool, which says nothing of why


def _run(job: Any) -> Any:
    assert _worker is not None
    if isinstance(_worker, UserError):
        raise _worker
    return _worker(job)


class _RowActor:
    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"item": self._worker(row["item"])}


def _on_ray(make: Callable[[], Worker], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    import ray

    actor: Any = _RowActor
    jobs_data = ray.data.from_items(list(jobs), override_num_blocks=len(jobs))
    pool = ray.data.ActorPoolStrategy(size=workers)
    for row in jobs_data.map(actor, fn_constructor_args=(make,), compute=pool).iter_rows():
        yield row["item"]
