"""Jobs of one kind over all devices of a Ray cluster: actors with a share of a GPU each, or this process alone.

A job is a picklable function of a worker's state, such as loaded networks, which every worker makes for itself. An actor that
dies is started anew, and what it had not answered is computed again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import Field, field_validator

from pangu.config import Frozen

State = TypeVar("State")
Item = TypeVar("Item")
Fed = TypeVar("Fed")
Answer = TypeVar("Answer")

AHEAD = 4
"""Items that wait for an actor or are being read for it, so that reading keeps up with its device."""
RESTARTS = 3
"""How often an actor is started anew, and a job computed again, before the stage fails."""
log = logging.getLogger(__name__)


class WorkersLost(RuntimeError):
    """Workers died more often than they are started anew, so that trying again may help."""


class Spread(Frozen):
    """Where a stage computes: in this process, or in the cluster that RAY_ADDRESS names, by default one of this machine alone."""

    on_ray: bool = False
    workers: int | None = Field(None, ge=1, description="None: as many as the cluster's GPUs carry, or one without any")
    gpus: float = Field(1.0, gt=0, description="GPUs a worker, where there are any; a share where several fit one")

    @field_validator("gpus")
    @classmethod
    def _share_or_whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("must be a share of one GPU, or a whole number of them")
        return value


@dataclass(frozen=True)
class Placement:
    """How many actors there are, what each asks Ray for, and whether this process computes beside them."""

    actors: int = 0
    gpus: float = 0.0
    joins: bool = True


@dataclass
class Crew(Generic[State]):
    """The workers of a stage; `with crew(...)` ends its actors, whatever happens.

    own: makes the state of this process, which is asked for only if this process computes.
    """

    placement: Placement
    own: Callable[[], State]
    actors: list[Any] = field(default_factory=list)
    _state: State | None = None

    def map(
        self,
        compute: Callable[[State, Fed], Answer],
        items: Iterable[Item],
        read: Callable[[Item], Fed] | None = None,
    ) -> Iterator[tuple[Item, Answer]]:
        """Every item with what `compute(state, read(item))` answers, as they finish.

        read: what needs no device, such as decoding. On a cluster with GPUs it runs as tasks on any CPU core, beside the actors.

        Raises:
            WorkersLost: an actor died `RESTARTS` times more than once.
            Exception: what `compute` or `read` raised, as it was.
        """
        if self.actors:
            yield from self._shared(compute, iter(items), read)
            return
        for item, fed in _read_ahead(iter(items), read):
            yield item, compute(self._mine(), fed)

    def _mine(self) -> State:
        if self._state is None:
            self._state = self.own()
        return self._state

    def _shared(
        self, compute: Callable[[State, Fed], Answer], items: Iterator[Item], read: Callable[[Item], Fed] | None
    ) -> Iterator[tuple[Item, Answer]]:
        import ray

        # Only who is there is given work: an actor whose GPU is not free yet would keep it waiting.
        starting = {actor.ready.remote(): actor for actor in self.actors}
        free: list[Any] = []
        running: dict[Any, tuple[Any, Item]] = {}
        beside: Any = ray.remote(num_cpus=1)(_fed) if read is not None and self.placement.gpus else None
        left = True
        while left or running:
            while free and left:
                item, left = _next(items)
                if left:
                    actor = free.pop(0)
                    fed = (None, beside.remote(read, item)) if beside else (read, item)
                    running[actor.run.remote(compute, *fed)] = (actor, item)
            if left and self.placement.joins:
                item, left = _next(items)
                if left:
                    yield item, compute(self._mine(), _fed(read, item))
            waits = [*running, *(starting if left else ())]
            if not waits:
                continue
            busy = left and self.placement.joins
            for ref in ray.wait(waits, num_returns=len(waits) if busy else 1, timeout=0 if busy else None)[0]:
                if ref in starting:
                    _answer(ref)
                    free += [starting.pop(ref)] * AHEAD
                else:
                    actor, item = running.pop(ref)
                    free.append(actor)
                    yield item, _answer(ref)


class _Actor:
    """A worker's state, and the jobs that are done with it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._state = make, None

    def ready(self) -> None:
        """Answered as soon as the state is made; not when the actor is, so that an error of it is told as it was."""
        if self._state is None:
            self._state = self._make()

    def run(self, compute: Callable[[Any, Any], Any], read: Callable[[Any], Any] | None, item: Any) -> Any:
        self.ready()  # again, in an actor that was started anew
        return compute(self._state, _fed(read, item))


@contextlib.contextmanager
def crew(
    stage: str, make: Callable[[], State], spread: Spread, own: Callable[[], State] | None = None, joins: bool = False
) -> Iterator[Crew[State]]:
    """The workers that `spread` asks for; each actor calls `make`, which travels by pickle, this process `own`.

    stage: for the sentence that says where it computes. joins: this process holds a device of its own, on which it computes too.
    """
    if not spread.on_ray:
        yield Crew(Placement(), own or make)
        return
    with _connected() as ray:
        placement = placed(stage, spread, _gpus_of_nodes(ray), joins)
        # A CPU actor reads for itself: tasks beside it would wait for the core that it holds.
        kind = ray.remote(
            num_cpus=0 if placement.gpus else 1,
            num_gpus=placement.gpus,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )(_Actor)
        actors = [kind.remote(make) for _ in range(placement.actors)]
        try:
            yield Crew(placement, own or make, actors)
        finally:
            for actor in actors:
                ray.kill(actor)


def placed(stage: str, spread: Spread, gpus_of_nodes: Iterable[float], joins: bool) -> Placement:
    """What `spread` comes to on a cluster whose nodes have so many GPUs each; says so where there are none."""
    slots = sum(int(gpus / spread.gpus + 1e-6) for gpus in gpus_of_nodes)
    if slots:
        workers = spread.workers or slots
        return Placement(workers - joins, spread.gpus, joins)
    if not joins:  # who holds a device was told what it got
        log.warning("No node of this cluster has a GPU, so %s computes on CPU cores.", stage)
    workers = spread.workers or 1
    return Placement(workers - 1 if joins or workers == 1 else workers, 0.0, joins or workers == 1)


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Ray, joined; left again if this process had not joined it before."""
    import ray

    joined = ray.is_initialized()
    if not joined:
        ray.init(logging_level=logging.WARNING)
    try:
        yield ray
    finally:
        if not joined:
            ray.shutdown()


def _gpus_of_nodes(ray: Any) -> list[float]:
    return [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]


def _read_ahead(items: Iterator[Item], read: Callable[[Item], Any] | None) -> Iterator[tuple[Item, Any]]:
    """Every item and what is read of it; the next one is read in a thread while this one is computed with."""
    if read is None:
        yield from ((item, item) for item in items)
        return

    def one() -> tuple[Item, Any] | None:
        item, there = _next(items)
        return (item, _fed(read, item)) if there else None

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(one)
        while (found := coming.result()) is not None:
            coming = reader.submit(one)
            yield found


def _fed(read: Callable[[Item], Any] | None, item: Item) -> Any:
    """What `compute` is given for an item."""
    return read(item) if read else item


def _next(items: Iterator[Item]) -> tuple[Any, bool]:
    """The next item, and whether there is one."""
    for item in items:
        return item, True
    return None, False


def _answer(ref: Any) -> Any:
    """What an actor answered.

    Raises:
        WorkersLost: it died too often.
    """
    import ray
    from ray.exceptions import ActorDiedError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from error
    except ActorDiedError as error:
        raise WorkersLost(
            f"A worker died {RESTARTS + 1} times, most likely for want of memory; run the same command again with fewer workers, "
            f"and it goes on where it was."
        ) from error
