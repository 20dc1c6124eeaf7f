"""What all pools share: the releases at hand, the thread that computes, the device, and how steps are watched."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pangu.config import MIDDLE_ROLES, ROLES, Role
from pangu.errors import UserError
from pangu.models.devices import best_device
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.messages import Job, PoolResult, Preview, Release, ReleaseRouting
from pangu.serve.inference.model_cache import ModelCache
from pangu.serve.inference.parts import load_part, placed
from pangu.serve.inference.readiness import first_calls, made_fast, sizes_of
from pangu.serve.inference.steps import StepBatcher, Watcher
from pangu.serve.inference.turns import Turns
from pangu.serve.settings import PoolSettings

if TYPE_CHECKING:
    from pangu.models.captured import Record
    from pangu.pipelines.acting_adapters import ActingAdapters
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.inpainting import Kept
    from pangu.sampling.sampling_state import SamplingState
    from pangu.sampling.trajectory import Step, Trajectory

logger = logging.getLogger(__name__)
Loader = Callable[[Release, str], "PanGuDrawPipeline"]


class Pool:
    """One part of the pair in one process.

    worker: shared by pools of one process. crosses: messages leave this process, so they go over the CPU.
    load: makes the pipeline of one part of a release. record: the way to capture, where it is not that of CUDA. turns: of pools
    whose generators share one place on a device, who draws there.
    """

    part: str

    def __init__(
        self,
        worker: Worker,
        settings: PoolSettings | None = None,
        *,
        crosses: bool = False,
        load: "Loader | None" = None,
        record: "Record | None" = None,
        turns: "Turns | None" = None,
    ) -> None:
        self._settings, self._turns = settings or PoolSettings(), turns
        self._worker, self._crosses, self._load, self._record = worker, crosses, load or load_part, record
        self._sizes = sizes_of(self._settings)
        self._batcher = StepBatcher(worker, self._settings.most_rows, self._sizes, turns)
        self._models: ModelCache[Release, PanGuDrawPipeline] = ModelCache(
            self._loaded, lambda release: release.key(self.part)
        )
        self._lineup: ReleaseRouting | None = None
        self._ready: set[str] = set()

    def _loaded(self, release: Release) -> "PanGuDrawPipeline":
        place = None if self._turns is None else self._turns.place
        pipeline: PanGuDrawPipeline = placed(self._load(release, self.part), self._settings.precision, place)
        if self.part != "decoder" and place is None:
            made_fast(pipeline, self._settings.execution, self._record)
        if self._settings.reuse is not None:
            pipeline.set_reuse({expert_of(pipeline, self.part): self._settings.reuse})
        return pipeline

    async def take(self, routing: ReleaseRouting) -> None:
        """Load every release of the routing, then let go of the others once no request needs them."""
        wanted = [release for release in routing.releases if self._draws(release)]
        self._models.retain([*(self._lineup.releases if self._lineup else ()), *wanted])
        for release in wanted:
            try:
                async with self._models.acquire(release) as pipeline:
                    await self._make_ready(release, pipeline)
            except UserError:
                # Nobody is sent to a release that a pool does not hold; without its champion a pool is of no use.
                if release == routing.champion:
                    raise
                logger.exception("version %s can not be loaded", release.pair_version)
        self._lineup = routing
        self._models.retain(wanted)
        self._ready &= {release.key(self.part) for release in wanted}

    def _draws(self, release: Release) -> bool:
        """Whether the release has this part; others have no expert between the two, or fewer."""
        return self.part not in MIDDLE_ROLES or self.part in release.between

    async def _make_ready(self, release: Release, pipeline: "PanGuDrawPipeline") -> None:
        """Call the generator once in every shape and batch that there are graphs for, as far as time allows; requests go on."""
        key = release.key(self.part)
        if self.part not in (*ROLES, *MIDDLE_ROLES) or self._sizes is None or key in self._ready:
            return
        self._ready.add(key)
        clock, done = time.perf_counter(), 0
        calls = list(first_calls(pipeline, release.folder, expert_of(pipeline, self.part), self._sizes))
        for call in calls:
            if time.perf_counter() - clock > self._settings.ready_within_s:
                break
            await self._worker.run(lambda call=call: self._batcher.aside(call))  # type: ignore[misc]
            done += 1
        logger.info(
            "version %s, %s: %d of %d shapes and batches were made ready in %.1f s",
            release.pair_version, self.part, done, len(calls), time.perf_counter() - clock,
        )  # fmt: skip

    async def holds(self) -> list[str]:
        """Content hashes of the releases that this pool draws with at once, or that have no part for it."""
        if self._lineup is None:
            return []
        ready = set(self._models.ready)
        return [
            release.sha256
            for release in self._lineup.releases
            if release.key(self.part) in ready or not self._draws(release)
        ]

    def _arrived(self, pool_result: PoolResult) -> PoolResult:
        """The message with its tensors on the device of this pool."""
        if not self._crosses:
            return pool_result
        return replace(pool_result, trajectory=pool_result.trajectory.to(best_device()))

    def _leaving(self, pool_result: PoolResult) -> PoolResult:
        """The message as another process can take it."""
        return replace(pool_result, trajectory=pool_result.trajectory.to("cpu")) if self._crosses else pool_result


def expert_of(pipeline: "PanGuDrawPipeline", part: str) -> Role:
    """The expert that the pool of a part draws with.

    Raises:
        UserError: the pair has none for it.
    """
    for role in pipeline.roles:
        if role == part:
            return role
    raise UserError(f"A pair of {', '.join(pipeline.roles)} has no {part}.")


def half(
    pipeline: "PanGuDrawPipeline", part: str, trajectory: "Trajectory", acting: "ActingAdapters | None" = None
) -> "SamplingState":
    """What the pool of a part draws of a trajectory, with the adapters of its request."""
    from pangu.pipelines.generator_model import GeneratorModel
    from pangu.pipelines.reused_steps import ReusedSteps
    from pangu.sampling.sampling_state import SamplingState

    model = GeneratorModel(pipeline, expert_of(pipeline, part), kept=ReusedSteps(), adapters=acting)
    return SamplingState(model, trajectory)


def keeping(kept: "Kept") -> "Callable[[SamplingState], None]":
    """What puts the kept part of a masked edit back after each step."""
    from pangu.sampling.inpainting import with_kept

    def keep(state: "SamplingState") -> None:
        state.trajectory = with_kept(state.trajectory, kept)

    return keep


def owned_by(pipeline: "PanGuDrawPipeline", part: str) -> "Callable[[SamplingState], bool]":
    """Whether the pool of a part draws the current timestep."""
    interval = pipeline.interval(expert_of(pipeline, part))
    return lambda state: state.trajectory.timestep in interval


def previewing(
    release: Release,
    job: Job,
    trajectory: "Trajectory",
    put: Callable[[Preview], None],
    previewed: int = 0,
) -> Watcher:
    """What a run that begins with `trajectory` calls after each of its steps: it puts the clean estimates that `job` asks for.

    previewed: how many of them were put before, so the first one here has that index.
    """
    first, steps = trajectory.step, len(trajectory.timesteps)
    places = preview_steps(steps - first, job.partial_images - previewed)
    when = {first + place: previewed + index for index, place in enumerate(places)}

    def look(step: "Step") -> None:
        index = when.get(step.trajectory.step)
        if index is not None:
            put(Preview(release, job, index, step.clean_bchw.to("cpu")))

    return look


def preview_steps(steps: int, wanted: int) -> list[int]:
    """After which of `steps` steps partial images are shown: `wanted` of them, evenly in (0, steps), or fewer if need be."""
    return sorted({round((index + 1) * steps / (wanted + 1)) for index in range(wanted)} - {0, steps})


def steps_of(trajectory: "Trajectory") -> int:
    """The number of steps that was asked for; a second-order sampler visits timesteps twice."""
    return int(trajectory.scheduler.num_inference_steps)
