"""Structure and texture are trained on lists of presets of their own; each is asked with the index of its own list."""

from fractions import Fraction

import pytest
import torch

from pangu.config import RoleTraining
from pangu.data.encode.views import job_data
from pangu.diffusion.presets import HIGH_RESOLUTION, LOW_RESOLUTION
from pangu.errors import UserError
from pangu.pipelines import pair_inputs
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests import subtests
from tests.pipelines.drawing import seeds


def trained_at(pair: PanGuDrawPipeline, structure: int, texture: int, presets: str = "published") -> PanGuDrawPipeline:
    """The tiny networks under contracts of other resolutions."""
    contracts = {role: dict(values) | {"presets": presets} for role, values in pair.config.contracts.items()}
    contracts["structure"]["resolution"], contracts["texture"]["resolution"] = structure, texture
    made = PanGuDrawPipeline(**pair.components, contracts=contracts, hidden_layers=pair.config.hidden_layers)
    made.set_progress_bar_config(disable=True)
    return made


@subtests.parametrize(
    ("structure", "texture", "presets"),
    [
        (1024, 512, "published"),
        (1024, 1024, "published"),
        (768, 512, "published"),
        (1024, 512, "square"),
        (96, 64, "square"),
    ],
)
def test_texture_is_asked_as_it_was_trained(pair, structure, texture, presets) -> None:
    """What images of a shape were conditioned on in training is what a picture of that shape is conditioned on."""
    made = trained_at(pair, structure, texture, presets)
    crop = structure if structure > texture else None
    data = job_data(RoleTraining(resolution=texture, crop_from=crop, presets=presets, steps=1, batch_size=1), 8)
    for size, index in zip(data.view.sizes, data.trained, strict=True):
        assert made.preset_for("texture", *size) == index


def test_every_shape_has_an_index_of_its_own_near_its_aspect_ratio(pair) -> None:
    made = trained_at(pair, 1024, 512)
    assert made.sizes == HIGH_RESOLUTION
    indices = [made.preset_for("texture", *size) for size in made.sizes]
    assert indices == sorted(set(indices)), "in the same order, none twice"
    for (height, width), index in zip(made.sizes, indices, strict=True):
        apart = Fraction(height, width) / Fraction(*LOW_RESOLUTION[index])
        assert Fraction(4, 5) <= apart <= Fraction(5, 4)
    assert made.preset_for("texture", 1024, 1024) == LOW_RESOLUTION.index((512, 512))
    assert [made.preset_for("structure", *size) for size in made.sizes] == list(range(len(made.sizes)))


def test_a_list_that_is_too_short_gives_the_nearest_shape(pair) -> None:
    structure, texture = (pair.contract(role) for role in ("structure", "texture"))
    wide = structure.model_copy(update={"resolution": 1024})
    assert {pair_inputs.matching_preset(*size, wide, texture) for size in HIGH_RESOLUTION} == {0}


def test_each_generator_is_told_the_index_in_its_own_list(pair) -> None:
    made = trained_at(pair, 1024, 512)
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
    made = trained_at(pair, 1024, 512)
    with pytest.raises(UserError, match="No preset is 960x256"):
        made.preset_for("texture", 960, 256)
    conditioning = made.encode_prompt(["fox"])
    trajectory = made.start(conditioning, height=512, width=2048, num_inference_steps=2, guidance_scale=1.0)
    assert trajectory.condition.facts["presets"] == {"structure": 0, "texture": 0}
    assert isinstance(trajectory.latents_bchw, torch.Tensor) and trajectory.latents_bchw.shape[2:] == (64, 256)
