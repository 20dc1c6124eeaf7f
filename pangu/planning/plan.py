"""From counted work, measured figures and a cluster to a plan: hours and cost of every stage. Pure arithmetic."""

from collections.abc import Mapping

from pydantic import Field

from pangu.config import Frozen, Role
from pangu.planning.cluster_spec import Cluster
from pangu.planning.figures import Figures
from pangu.planning.footprint import Footprint

HOUR_S = 3600.0
TB = 1e12


class JobWork(Frozen):
    """One training job."""

    steps: int
    batch_size: int
    operations_per_image: float
    network_parameters: int

    @property
    def operations(self) -> float:
        return float(self.steps) * self.batch_size * self.operations_per_image


class Work(Frozen):
    """What has to be done, counted; nothing of machines."""

    listed: int = Field(ge=1, description="URLs")
    ok: int = Field(description="Images downloaded")
    rows: int = Field(description="Rows of the dataset")
    upscaled: int
    image_bytes: float = Field(description="Of a downloaded image")
    row_bytes: float = Field(description="Of a row of the dataset table")
    latent_bytes: float = Field(description="Of an encoded row, all views together")
    megapixels: float = Field(description="Of a downloaded image")
    upscaled_megapixels: float = Field(description="Of an image after upscaling")
    encode_operations: float = Field(description="Of one row, all views together")
    jobs: dict[Role, JobWork]
    drawn_images: int
    draw_operations: float = Field(description="Of one drawn image")


class StagePlan(Frozen):
    """One stage. Wall-clock is what the slowest of cores, devices and network needs."""

    name: str
    amount: int
    unit: str
    stored_bytes: float = 0.0
    core_hours: float = 0.0
    device_hours: float = 0.0
    wall_hours: float
    cost: float
    basis: str = Field(description="Where the figure comes from")


class SeenRows(Frozen):
    """A dataset of a mixture, and how often a training sees its rows; all rows are taken for those of every job."""

    dataset: str
    rows: int
    weight: float = Field(description="How often each row appears in an epoch")
    share: float = Field(description="Of all rows that are drawn")
    times: dict[Role, float] = Field(description="How often each row is drawn, by job")


class Plan(Frozen):
    """All stages, in order. Both training jobs of a pair run at the same time on half of the devices each."""

    cluster: str
    currency: str
    stages: tuple[StagePlan, ...]
    storage_cost_per_month: float
    memory: dict[Role, Footprint] = Field({}, description="Of a device, for each training job")
    mixture: tuple[SeenRows, ...] = Field((), description="Of a training on several datasets, each of them")
    assumptions: dict[str, str] = Field({}, description="What was not measured here -> where it comes from")

    @property
    def core_hours(self) -> float:
        return sum(stage.core_hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        return sum(stage.device_hours for stage in self.stages)

    @property
    def cost(self) -> float:
        return sum(stage.cost for stage in self.stages)

    @property
    def stored_bytes(self) -> float:
        return sum(stage.stored_bytes for stage in self.stages)

    @property
    def wall_hours(self) -> float:
        """Stages in turn, but training jobs side by side."""
        trainings = [stage.wall_hours for stage in self.stages if stage.name.startswith("train-")]
        return sum(stage.wall_hours for stage in self.stages) - sum(trainings) + max(trainings, default=0.0)


def make_plan(
    work: Work,
    figures: Figures,
    cluster: Cluster,
    assumptions: Mapping[str, str] | None = None,
    memory: Mapping[Role, Footprint] | None = None,
    mixture: tuple[SeenRows, ...] = (),
) -> Plan:
    """Every stage of `work` on `cluster`."""
    stages = (
        _ingest(work, figures, cluster),
        _prepare(work, figures, cluster),
        _encode(work, figures, cluster),
        *(_training(role, job, len(work.jobs), figures, cluster) for role, job in work.jobs.items()),
        _computed("evaluate", work.drawn_images, "images", work.drawn_images * work.draw_operations, figures, cluster),
    )  # fmt: skip
    stored = sum(stage.stored_bytes for stage in stages)
    return Plan(
        cluster=cluster.name,
        currency=cluster.currency,
        stages=stages,
        storage_cost_per_month=stored / TB * cluster.storage_price_per_tb_month,
        memory=dict(memory or {}),
        mixture=mixture,
        assumptions=dict(assumptions or {}),
    )


def _ingest(work: Work, figures: Figures, cluster: Cluster) -> StagePlan:
    core_s = figures.ingest.start_s + work.listed * figures.ingest.image_s
    network_s = work.ok * work.image_bytes * 8 / (cluster.download_mbit_per_s * 1e6)
    basis = "measured: core-seconds a URL; bandwidth as given"
    return _on_cores(
        "ingest", work.listed, "URLs", core_s, cluster, basis, network_s, stored_bytes=work.ok * work.image_bytes
    )


def _prepare(work: Work, figures: Figures, cluster: Cluster) -> StagePlan:
    core_s = figures.prepare.start_s + work.ok * figures.prepare.image_s
    core_s += work.ok * work.megapixels * figures.decode_s_per_megapixel
    core_s += work.upscaled * work.upscaled_megapixels * figures.upscale_s_per_megapixel
    basis = "measured: core-seconds an image, a decoded and an upscaled megapixel"
    stored = work.rows * work.row_bytes
    return _on_cores("prepare", work.ok, "images", core_s, cluster, basis, stored_bytes=stored)


def _encode(work: Work, figures: Figures, cluster: Cluster) -> StagePlan:
    stored = work.rows * work.latent_bytes
    return _computed("encode", work.rows, "rows", work.rows * work.encode_operations, figures, cluster, stored)


def _training(role: Role, job: JobWork, jobs: int, figures: Figures, cluster: Cluster) -> StagePlan:
    stored = 16.0 * job.network_parameters  # weights, running mean and both moments of a checkpoint, 4 bytes each
    images = job.steps * job.batch_size
    name = f"train-{role}"
    if cluster.devices:
        share = max(1, cluster.devices // jobs)
        return _computed(name, images, "images", job.operations, figures, cluster, stored, share)
    core_s = figures.step.core_s(job.steps, job.batch_size * job.operations_per_image)
    hours = core_s / cluster.core_speed / HOUR_S
    return StagePlan(
        name=name,
        amount=images,
        unit="images",
        stored_bytes=stored,
        core_hours=hours,
        wall_hours=hours,
        cost=hours * cluster.core_price_per_hour,
        basis="measured: core-seconds a step and an operation, one core a job",
    )


def _computed(
    name: str,
    amount: int,
    unit: str,
    operations: float,
    figures: Figures,
    cluster: Cluster,
    stored_bytes: float = 0.0,
    devices: int | None = None,
) -> StagePlan:
    """Work that networks do: on the devices where there are any, else on the cores."""
    if not cluster.devices or cluster.device is None:
        basis = "counted operations, measured core-seconds an operation"
        core_s = operations * figures.step.s_per_operation
        return _on_cores(name, amount, unit, core_s, cluster, basis, stored_bytes=stored_bytes)
    device = cluster.device
    hours = operations / (device.peak_tflops * 1e12 * device.utilisation) / HOUR_S
    return StagePlan(
        name=name,
        amount=amount,
        unit=unit,
        stored_bytes=stored_bytes,
        device_hours=hours,
        wall_hours=hours / (devices or cluster.devices),
        cost=hours * device.price_per_hour,
        basis=f"counted operations, {device.utilisation:.0%} of {device.peak_tflops:g} TFLOP/s as given",
    )


def _on_cores(
    name: str,
    amount: int,
    unit: str,
    core_s: float,
    cluster: Cluster,
    basis: str,
    network_s: float = 0.0,
    stored_bytes: float = 0.0,
) -> StagePlan:
    hours = core_s / cluster.core_speed / HOUR_S
    return StagePlan(
        name=name,
        amount=amount,
        unit=unit,
        stored_bytes=stored_bytes,
        core_hours=hours,
        wall_hours=max(hours / cluster.cores, network_s / HOUR_S),
        cost=hours * cluster.core_price_per_hour,
        basis=basis,
    )
