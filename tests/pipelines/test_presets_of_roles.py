"""Structure and texture are trained on lists of presets of their own; each is asked with the index of its own list."""

import math

import pytest
import torch

from pangu.diffusion.presets import HIGH_RESOLUTION, LOW_RESOLUTION, presets_for
from pangu.errors import UserError
from pangu.pipelines.inputs import matching_preset
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests.pipelines.drawing import seeds


def published(pair: PanGuDrawPipeline) -> PanGuDrawPipeline:
    """The tiny networks under contracts of the published resolutions."""
    contracts = {role: dict(values) for role, values in pair.config.contracts.items()}
    contracts["structure"]["resolution"], contracts["texture"]["resolution"] = 1024, 512
    made = PanGuDrawPipeline(**pair.components, contracts=contracts, hidden_layers=pair.config.hidden_layers)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("size", HIGH_RESOLUTION, ids=str)
def test_the_nearest_aspect_ratio_is_chosen(size) -> None:
    def distance(preset: tuple[int, int]) -> float:
        return abs(math.log(preset[0] / preset[1]) - math.log(size[0] / size[1]))

    chosen = LOW_RESOLUTION[matching_preset(*size, 512)]
    assert distance(chosen) == pytest.approx(min(distance(preset) for preset in LOW_RESOLUTION))


@pytest.mark.parametrize("size", HIGH_RESOLUTION, ids=str)
def test_a_transposed_picture_gets_the_transposed_preset(size) -> None:
    height, width = LOW_RESOLUTION[matching_preset(*size, 512)]
    assert LOW_RESOLUTION[matching_preset(size[1], size[0], 512)] == (width, height)


@pytest.mark.parametrize("resolution", [1024, 512, 96])
def test_a_list_maps_to_itself_and_squares_to_squares(resolution) -> None:
    presets = presets_for(resolution)
    assert [matching_preset(*size, resolution) for size in presets] == list(range(len(presets)))
    square = presets.index((resolution, resolution))
    assert matching_preset(1024, 1024, resolution) == square


def test_each_generator_is_told_the_index_in_its_own_list(pair) -> None:
    made = published(pair)
    told: dict[str, list[float]] = {"structure": [], "texture": []}
    hooks = [
        getattr(made, role).register_forward_pre_hook(
            lambda _, args, kwargs, role=role: told[role].extend(kwargs["added_cond_kwargs"]["time_ids"][0].tolist()),
            with_kwargs=True,
        )
        for role in told
    ]
    options = {"height": 1920, "width": 512, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    assert made("fox", generator=seeds(1), **options).images.shape == (1, 16, 240, 64)
    for hook in hooks:
        hook.remove()
    assert told == {"structure": [8.0], "texture": [9.0]}
    assert HIGH_RESOLUTION[8] == (1920, 512) and LOW_RESOLUTION[9] == (960, 256)


def test_only_sizes_of_the_structure_list_are_drawn(pair) -> None:
    made = published(pair)
    assert made.preset_for("texture", 1024, 1024) == LOW_RESOLUTION.index((512, 512))
    with pytest.raises(UserError, match="No preset is 960x256"):
        made.preset_for("texture", 960, 256)
    conditioning = made.encode_prompt(["fox"])
    trajectory = made.start(conditioning, height=512, width=2048, num_inference_steps=2, guidance_scale=1.0)
    assert trajectory.presets == {"structure": 0, "texture": 0}
    assert isinstance(trajectory.latents_bchw, torch.Tensor) and trajectory.latents_bchw.shape[2:] == (64, 256)
