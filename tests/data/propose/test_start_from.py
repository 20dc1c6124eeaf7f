"""What a dataset is proposed to start from, and that an adapter's recipe reads a model as diffusers' own pipeline does."""

import pytest
import torch

from pangu.data.propose.start_from import adapter_recipe, fitted, propose_start
from pangu.errors import UserError
from pangu.models.init_weights import STARTER
from tests import subtests
from tests.pipelines.test_pretrained import NEGATIVE, PROMPT, published, split


def test_the_start_follows_from_the_number_of_pictures_the_device_and_what_was_asked() -> None:
    def chosen(*arguments: object) -> tuple[str, str]:
        found = propose_start(*arguments)  # type: ignore[arg-type]
        return found.name, found.start

    assert chosen(None, 60, 60, None) == ("demo", "embedded")
    few = propose_start(None, 39, 39, None)
    assert few.start == "embedded" and fitted(few, "mine", 12, 9).recipe.name == "mine"
    assert few.recipe.lora is not None and few.recipe.rehearsal is not None and not few.name, "it lies beside the card"
    assert chosen(None, 99_999, 99_999, 80.0) == ("demo", "embedded")
    assert chosen(None, 100_000, 100_000, None) == ("starter", "nothing")
    assert chosen(None, 100_000, 100_000, 24.0) == ("starter", "nothing")
    assert chosen(None, 200_000, 100_000, 80.0) == ("sdxl_half", "nothing")
    assert chosen(None, 200_000, 99_999, 80.0) == ("starter", "nothing"), "half of SDXL learns from large pictures"
    assert chosen("embedded", 10**9, 10**9, 80.0) == ("demo", "embedded")
    assert chosen("nothing", 60, 60, None) == ("starter", "nothing")


def test_batches_hold_no_more_than_the_rows_of_their_job() -> None:
    start = propose_start(None, 60, 60, None)
    assert fitted(start, "mine", 60, 60) is start
    small = fitted(start, "mine", 20, 9)
    assert (small.name, small.recipe.name) == ("", "mine")
    assert (small.recipe.structure.batch_size, small.recipe.texture.batch_size) == (20, 9)
    assert (small.texture_min_side, small.target_side) == (64, 96)


@subtests.parametrize("kind", ["sd", "sdxl"])
def test_the_recipe_of_an_adapter_reads_the_model_as_its_own_pipeline_does(kind: str, tmp_path) -> None:
    original = published(kind)
    original.unet.register_to_config(sample_size=12)
    original.save_pretrained(tmp_path)
    recipe = adapter_recipe(str(tmp_path), on_gpu=False)
    assert recipe.lora is not None and recipe.structure.resolution == recipe.texture.resolution == 96
    pair = split(recipe)
    noise = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    images = []
    for pipeline in (original, pair):
        pipeline.set_progress_bar_config(disable=True)
        options = {"height": 96, "width": 96, "num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "pt"}
        images.append(pipeline(PROMPT, negative_prompt=NEGATIVE, latents=noise, **options).images)
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-3)


def test_a_large_model_trains_texture_on_windows_of_half_its_size(tmp_path) -> None:
    original = published("sdxl")
    original.unet.register_to_config(sample_size=128)
    original.save_pretrained(tmp_path)
    texture = adapter_recipe(str(tmp_path), on_gpu=True).texture
    assert (texture.resolution, texture.crop_from) == (512, 1024)


def test_a_pair_is_adapted_with_its_own_encoders_and_what_is_no_model_is_refused(tmp_path) -> None:
    of_pair = adapter_recipe("embedded", on_gpu=False)
    assert of_pair.lora is not None and of_pair.init_from is not None and of_pair.init_from.source.endswith(STARTER)
    with pytest.raises(UserError, match="There is no model at"):
        propose_start(str(tmp_path / "nothing"), 60, 60, None)
    with pytest.raises(UserError, match=r"holds no model_index\.json"):
        propose_start(str(tmp_path), 60, 60, None)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "text_encoder": ["a", "b"]}')
    with pytest.raises(UserError, match="is a FluxPipeline; name a Stable Diffusion or SDXL pipeline"):
        propose_start(str(tmp_path), 60, 60, None)
