"""Bad input gets one sentence that names the partner and says what fits; nothing is silently resized."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, CMStochasticIterativeScheduler, DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.consistency_models import ConsistencyModelPipeline
from PIL import Image

from pangu.errors import UserError
from pangu.pipelines.coop import CoopPipeline, Partner, register
from pangu.pipelines.coop.adapters import ADAPTERS
from pangu.pipelines.coop.adapters.stable_diffusion import StableDiffusion
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.coop.coops import draw, together

checks = subtests.Checks()


EDGES = Image.fromarray(np.zeros((16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def main() -> StableDiffusionPipeline:
    return small.stable_diffusion()


@pytest.fixture(scope="module")
def coop(main) -> CoopPipeline:
    return together(main, Partner(small.sdxl(), name="old"))


@subtests.parametrize(
    ("change", "sentence"),
    [
        ({"strength": 1.2}, r"old: strength must lie in \[0, 1\], but is 1.2 at step 0"),
        ({"strength": -0.1}, r"strength must lie in \[0, 1\]"),
        ({"strength": float("nan")}, r"strength must lie in \[0, 1\]"),
        ({"strength": lambda step, steps: step}, "is 2 at step 2"),
        ({"strength": [0.5, 0.5]}, "a list of 2, but there are 4 steps"),
        ({"start": 0.6, "stop": 0.6}, "0 <= start < stop <= 1"),
        ({"every": 0}, "every must be a whole number of at least 1"),
        ({"mask": torch.ones(5, 5)}, r"mask is 5x5 \(height x width\), but 16x16 or 8x8 fits"),
        ({"mask": torch.ones(1, 16, 16)}, r"mask must have the shape \(height, width\)"),
        ({"mask": torch.full((16, 16), 2.0)}, r"mask must lie in \[0, 1\]"),
        ({"height": 8, "width": 8}, "old draws 8x8, but the main model 16x16"),
        ({"height": 17, "width": 17}, "old draws multiples of 2 px, not 17x17"),
        ({"height": 16, "width": 8, "upsample": "bilinear"}, "same aspect ratio"),
        ({"prompt": ["a", "b"]}, "old: prompt is a list of 2, but the main model has 1"),
        ({"guidance_scale": 99}, "old: guidance_scale must lie in 0 ... 50"),
        ({"latents": torch.zeros(1, 4, 3, 3)}, r"old: latents have the shape .*, but \(1, 4, 8, 8\) fits"),
        ({"extra": {"styles": {}}}, "old: extra may name nothing, not 'styles'"),
        ({"source": "elsewhere"}, "may change strength"),
    ],
)
def test_a_partner_that_can_not_be_asked_that_way(coop, change, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        draw(coop, partners=[change])


@subtests.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"height": 15}, "main draws multiples of 2 px, not 15x16"),
        ({"latents": torch.zeros(1, 3, 8, 8)}, "latents have the shape"),
        ({"partners": []}, "changes for 0, but there are 1"),
        ({"handoff": {}}, "made without one"),
        ({"generator": [torch.Generator()] * 3}, "list of 3, but 1 images"),
        ({"negative_prompt": ["a", "b"]}, "1 prompts came with 2"),
        ({"output_type": "gif"}, "output_type"),
        ({"callback_on_step_end_tensor_inputs": ("noise",)}, "may name"),
        ({"extra": {"magic": 1}}, "main: extra may name nothing"),
    ],
)
def test_bad_arguments(coop, arguments, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        draw(coop, **arguments)


@checks
def control_images_are_needed_and_are_never_resized(main) -> None:
    one = together(main, Partner(small.controlled(), name="edges"))
    for image, sentence in (
        (None, r"edges has 1 ControlNet\(s\), but no control image"),
        (Image.new("RGB", (32, 16)), r"edges: the control image is 16x32 \(height x width\), but 16x16 is drawn"),
        ([EDGES, EDGES], "edges: 2 control images came with 1 prompts"),
        ("edges.png", "must be a PIL image"),
    ):
        with pytest.raises(UserError, match=sentence):
            draw(one, partners=[{"image": image}])
    two = together(main, Partner(small.controlled(count=2), name="edges"))
    for change, sentence in (
        ({"image": EDGES}, "edges has 2 ControlNets, but 1 control image"),
        (
            {"image": [EDGES, EDGES], "conditioning_scale": [1.0]},
            r"2 ControlNet\(s\), but 1 values of conditioning_scale",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            draw(two, partners=[change])
    varied = together(main, Partner(small.image_variation(), name="variation"))
    with pytest.raises(UserError, match="variation varies an image, but got none"):
        draw(varied)


@checks
def models_that_can_not_be_bridged(main) -> None:
    no_vae = small.stable_diffusion(1)
    no_vae.vae = None
    inpainting = small.stable_diffusion(1, unet=small.unet(1, in_channels=9))
    mixed = small.stable_diffusion(1)
    mixed.unet.to(torch.float16)
    strange = ConsistencyModelPipeline(small.ddpm().unet, CMStochasticIterativeScheduler())
    for pipe, sentence in (
        (no_vae, r"partner has no autoencoder \(vae\)"),
        (inpainting, "partner has a network of 9 channels, but an autoencoder of 4"),
        (small.ddpm(channels=1), r"partner draws 1 channel\(s\)"),
        (mixed, "partner has parts of dtype torch.float16 and torch.float32"),
        (strange, "partner is a ConsistencyModelPipeline; models that can cooperate are"),
    ):
        with pytest.raises(UserError, match=sentence):
            CoopPipeline(main, Partner(pipe))
    odd = small.stable_diffusion(1)
    odd.scheduler = DDIMScheduler(prediction_type="magic")
    with pytest.raises(UserError, match="prediction_type = magic"):
        CoopPipeline(main, Partner(odd))


@checks
def partners_on_another_device_are_named(main) -> None:
    far = small.stable_diffusion(1)
    for part in (far.unet, far.vae, far.text_encoder):
        part.to("meta")
    with pytest.raises(UserError, match="partner is on meta, but main on cpu"):
        CoopPipeline(main, Partner(far))


@checks
def names_and_sums_of_strengths(main) -> None:
    other = small.stable_diffusion(1)
    with pytest.raises(UserError, match="Two models are called 'a'"):
        CoopPipeline(main, [Partner(other, name="a"), Partner(other, name="a")])
    greedy = together(main, [Partner(other, strength=0.7), Partner(other, strength=0.7)])
    with pytest.raises(UserError, match=r"add up to 1\.4 at step 0"):
        draw(greedy)
    mask = torch.ones(16, 16)
    with pytest.raises(UserError, match=r"add up to 1\.4 somewhere"):
        draw(greedy, partners=[{"mask": mask}, {"mask": mask}])


@checks
def sources_that_are_no_pipelines(main, tmp_path) -> None:
    for source, sentence in (
        (str(tmp_path / "nothing"), "There is no model at"),
        (str(tmp_path), "has no model_index.json"),
    ):
        with pytest.raises(UserError, match=sentence):
            CoopPipeline(main, source)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}')
    with pytest.raises(UserError, match="can not be loaded as a pipeline"):
        CoopPipeline(main, str(tmp_path))
    with pytest.raises(UserError, match="ControlNets are put on a pipeline of SingleStage, StableDiffusionPipeline"):
        CoopPipeline(main, Partner(small.flux(), controlnet=str(tmp_path)))
    with pytest.raises(UserError, match="There is no ControlNet at"):
        CoopPipeline(main, Partner(small.stable_diffusion(1), controlnet=str(tmp_path)))


@checks
def a_new_family_is_one_registered_class(main) -> None:
    class Mine(StableDiffusionPipeline):
        pass

    class Adapter(StableDiffusion):
        pass

    register(Mine, Adapter)
    try:
        coop = CoopPipeline(main, Mine(**small.sd_parts(1)))
        assert isinstance(coop.adapters[1], Adapter)
    finally:
        del ADAPTERS[Mine]


@checks
def folders_controlnets_and_tiny_autoencoders_load(main, tmp_path) -> None:
    from tests.pipelines.coop.small import controlnet

    plain = small.stable_diffusion(1)
    plain.save_pretrained(tmp_path / "base")
    net = controlnet(plain.unet)
    net.save_pretrained(tmp_path / "edges")
    partner = Partner(str(tmp_path / "base"), controlnet=[str(tmp_path / "edges")], image=EDGES)
    loaded = draw(together(main, partner))
    in_memory = small.controlled(1)
    in_memory.controlnet = net
    assert torch.equal(loaded, draw(together(main, Partner(in_memory, image=EDGES))))
    tiny = small.seeded(
        0, AutoencoderTiny, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    shortened = draw(together(main, Partner(small.sdxl(), bridge_vae=tiny), bridge_vae=tiny))
    assert shortened.isfinite().all()
    assert not torch.equal(shortened, draw(together(main, Partner(small.sdxl()))))


@checks
def a_bridge_tells_what_it_loses(main) -> None:
    here, there = small.OrthonormalVAE(1), small.OrthonormalVAE(2)
    network = small.unet(7, channels=12)
    exact = together(
        small.stable_diffusion(unet=network, vae=here),
        Partner(small.stable_diffusion(unet=network, vae=there), name="exact"),
    )
    found = exact.roundtrip_error(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert found["exact"].worst > 100
    with pytest.warns(UserWarning, match="The bridge to lossy keeps only"):
        lossy = together(main, Partner(small.sdxl(), name="lossy")).roundtrip_error([EDGES])
    assert lossy["lossy"].worst < 25
    same = together(main, Partner(small.stable_diffusion(), name="same")).roundtrip_error([EDGES])
    assert same["same"].worst == float("inf")


@checks
def an_offloaded_partner_draws_the_same(main) -> None:
    coop = together(main, Partner(small.sdxl()))
    expected = draw(coop)
    coop.offload_partners()
    assert torch.equal(draw(coop), expected)


test_bad_input = checks.test()
