"""How images are seen by a training job: at which sizes they are encoded, which presets they fill, what is cut out of them.

Pure arithmetic on sizes.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pangu.config import EdgeControl, Frozen, RoleTraining
from pangu.diffusion.presets import PresetKind, Size, nearest_of, paired_presets, presets_for
from pangu.errors import UserError


class View(Frozen):
    """How images are encoded. Jobs that look at images alike share the files.

    sizes: (height, width) in px of every preset of the list; kept: the indices of those that rows are given.
    """

    sizes: tuple[Size, ...]
    kept: tuple[int, ...]
    lower_sizes: tuple[Size, ...] | None = Field(
        None, description="Per preset, the size of the earlier stage's image in a cascade"
    )
    control: EdgeControl | None = Field(
        None, exclude_if=lambda value: value is None, description="What a ControlNet is shown of each image"
    )

    def preset_of(self, height: int, width: int) -> int:
        """The index of the preset that an image of that size is encoded at."""
        return self.kept[nearest_of(height, width, [self.sizes[index] for index in self.kept])]


class JobData(Frozen):
    """What one training job reads: a view, and which rows of it.

    trained: for each preset of the view, the index of the one that is trained at; another list where windows are cut out.
    """

    view: View
    trained: tuple[int, ...]
    rows: Literal["all", "originals"]
    min_original_side: int

    @property
    def partitions(self) -> tuple[bool, ...]:
        """Whether the job reads originals (False), or upscaled rows (True) too."""
        return (False,) if self.rows == "originals" else (False, True)


def job_data(training: RoleTraining, spatial_factor: int, kept: tuple[int, ...] | None = None) -> JobData:
    """What a job reads, by its part of the recipe; `kept` presets of the view, or all."""
    sizes = presets_list(training.encoded_side, training.presets, spatial_factor)
    trained = presets_for(training.resolution, training.presets, spatial_factor)
    if training.presets == "square":
        side = (training.resolution, training.resolution)
        pairs = tuple(trained.index(side) for _ in sizes)
    else:
        pairs = paired_presets(sizes, trained)
    view = View(
        sizes=sizes,
        kept=tuple(range(len(sizes))) if kept is None else kept,
        lower_sizes=_lower_sizes(sizes, training, spatial_factor),
        control=training.control,
    )
    return JobData(view=view, trained=pairs, rows=training.rows, min_original_side=training.min_original_side)


def presets_list(side: int, kind: PresetKind, spatial_factor: int) -> tuple[Size, ...]:
    """The shapes that images are encoded at: one square, or the published list."""
    return ((side, side),) if kind == "square" else presets_for(side, kind, spatial_factor)


def _lower_sizes(sizes: tuple[Size, ...], training: RoleTraining, spatial_factor: int) -> tuple[Size, ...] | None:
    """The size of the earlier stage's image for each of `sizes`: its own preset, as at sampling; larger where windows are cut."""
    if training.lower_side is None:
        return None
    side = training.lower_side * training.encoded_side // training.resolution
    lower = presets_list(side, training.presets, spatial_factor)
    return tuple(lower[nearest_of(height, width, lower)] for height, width in sizes)


def windows(training: RoleTraining, spatial_factor: int) -> dict[int, Size] | None:
    """Trained preset -> (height, width) in latents of the part of an image that is trained on; None where it is the whole.

    Raises:
        UserError: a window is larger than the image that it is cut out of.
    """
    if training.crop_from is None:
        return None
    data = job_data(training, spatial_factor)
    presets = presets_for(training.resolution, training.presets, spatial_factor)
    for size, index in zip(data.view.sizes, data.trained, strict=True):
        if presets[index][0] > size[0] or presets[index][1] > size[1]:
            raise UserError(
                f"A window of {presets[index][0]}x{presets[index][1]} px (height x width) does not fit into an image of "
                f"{size[0]}x{size[1]} px; raise crop_from or lower resolution."
            )
    return {index: (presets[index][0] // spatial_factor, presets[index][1] // spatial_factor) for index in data.trained}


def kept_presets(counts: Mapping[Size, int], training: RoleTraining, spatial_factor: int) -> tuple[int, ...]:
    """The presets that rows are given: all, or with `starved_presets` "nearest" those that have at least a batch of rows.

    counts: training images of each (height, width). The emptiest starved preset gives its images to their next nearest ones,
    until none is starved.
    """
    view = job_data(training, spatial_factor).view
    if training.starved_presets == "refuse":
        return view.kept
    while True:
        filled = fill_buckets(counts, view)
        starved = [index for index in view.kept if filled.get(index, 0) < training.batch_size]
        if not starved or len(view.kept) == 1:
            return view.kept
        emptiest = min(starved, key=lambda index: filled.get(index, 0))
        view = view.model_copy(update={"kept": tuple(index for index in view.kept if index != emptiest)})


def fill_buckets(counts: Mapping[Size, int], view: View) -> dict[int, int]:
    """How many of the images of each (height, width) each preset gets."""
    filled: dict[int, int] = {}
    for (height, width), count in counts.items():
        preset = view.preset_of(height, width)
        filled[preset] = filled.get(preset, 0) + count
    return filled
