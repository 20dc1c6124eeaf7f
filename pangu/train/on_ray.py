"""A training job on Ray Train: data parallelism only, no model sharding, no traffic to the other job.

Imports little at the top: Ray's controller of a run imports this file, and has no use for what its workers need.
"""

import logging
import uuid
from typing import TYPE_CHECKING, Any

from pangu.garbage import look_seldom
from pangu.train.attempts import claim, claim_for_group

if TYPE_CHECKING:
    from pangu.train.job import TrainJob


log = logging.getLogger(__name__)


def run_on_ray(job: "TrainJob", quiet: bool = False) -> None:
    """Start the workers and wait. Each attempt has a name of its own: the run's state is in its own checkpoints.

    quiet: what the workers print stays in Ray's logs.

    Ray itself repeats nothing but preempted attempts, for it cannot tell bad input from bad luck.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    if not ray.is_initialized():
        ray.init(log_to_driver=not quiet, logging_level=logging.WARNING if quiet else logging.INFO)
    least, most = job.recipe.min_workers, job.recipe.workers
    workers: Any = most if least is None else (least, most)
    # Of the cluster, not of this process, which needs no GPU and may be where there is none.
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if sentence := waits_for_gpus(least or most, gpus):
        log.warning(sentence)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job.model_dump(mode="json"), "attempt": claim(job.run_folder)},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpus > 0),
        run_config=ray.train.RunConfig(
            name=f"{job.run_name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(job.run_folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()


def waits_for_gpus(workers: int, gpus: int) -> str:
    """What to say where a cluster that has GPUs has not enough of them yet; "" where a run of so many workers can begin.

    A cluster may grow, so this refuses nothing.
    """
    if not 0 < gpus < workers:
        return ""
    return (
        f"Training waits for {workers} workers with a GPU each, and the cluster has {gpus} in all; it begins when there are "
        f"enough. With `workers` or `min_workers` of at most {gpus} it begins now."
    )


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    look_seldom()
    import ray.train
    from ray.train.torch import get_device

    from pangu.train.job import TrainJob
    from pangu.train.worker import work
    from pangu.train.world import World

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    job, attempt = TrainJob.model_validate(config["job"]), config["attempt"]
    work(job, world, claim_for_group(job.run_folder, attempt) if world.rank == 0 else attempt)
