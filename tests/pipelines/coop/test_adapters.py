"""Every adapter alone draws what its adapter's own pipeline draws: that is what makes an adapter right."""

import numpy as np
import torch
from diffusers import EDMEulerScheduler
from PIL import Image

from pangu.pipelines.baselines import SingleStage
from pangu.pipelines.coop import CoopPipeline
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.test_baselines import contracts, shared

EDGES = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
MORE_EDGES = Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8))
STEPS = 4


def alone(pipe, prompt=("a fox", "a lemon"), **arguments):
    coop = CoopPipeline(pipe)
    coop.set_progress_bar_config(disable=True)
    extra = {"height": 16, "width": 16, "num_inference_steps": STEPS, "output_type": "pt"} | arguments
    return coop(None if prompt is None else list(prompt), generator=small.seeds(1, 2), **extra).images


def own(pipe, **arguments):
    call = {"num_inference_steps": STEPS, "output_type": "pt", "generator": small.seeds(1, 2)}
    return pipe(**(call | arguments)).images


PROMPTS = {"prompt": ["a fox", "a lemon"], "height": 16, "width": 16}


@subtests.parametrize(
    ("build", "theirs", "ours"),
    [
        (lambda: small.stable_diffusion(), PROMPTS | {"guidance_scale": 5.0}, {}),
        (lambda: small.stable_diffusion(), PROMPTS | {"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        (
            lambda: small.stable_diffusion(prediction="v_prediction"),
            PROMPTS | {"guidance_scale": 5.0, "negative_prompt": ["water", "ink"]},
            {"negative_prompt": ["water", "ink"]},
        ),
        (lambda: small.stable_diffusion(scheduler=EDMEulerScheduler()), PROMPTS | {"guidance_scale": 5.0}, {}),
        (lambda: small.sdxl(), PROMPTS | {"guidance_scale": 5.0}, {}),
        (lambda: small.controlled(), PROMPTS | {"guidance_scale": 5.0, "image": EDGES}, {"image": EDGES}),
        (
            lambda: small.controlled(count=2),
            PROMPTS
            | {"guidance_scale": 5.0, "image": [EDGES, MORE_EDGES], "controlnet_conditioning_scale": [0.5, 0.8]},
            {"image": [EDGES, MORE_EDGES], "conditioning_scale": [0.5, 0.8]},
        ),
        (
            lambda: small.controlled_sdxl(),
            PROMPTS | {"guidance_scale": 5.0, "image": EDGES, "controlnet_conditioning_scale": 0.7},
            {"image": EDGES, "conditioning_scale": 0.7},
        ),
        (
            lambda: small.image_variation(),
            {"image": [EDGES, MORE_EDGES], "height": 16, "width": 16, "guidance_scale": 5.0},
            {"image": [EDGES, MORE_EDGES]},
        ),
        (lambda: small.stable_diffusion_3(), PROMPTS | {"guidance_scale": 5.0}, {}),
        (lambda: small.flux(), PROMPTS | {"guidance_scale": 5.0}, {}),
        (
            lambda: small.flux(guidance_embeds=False),
            PROMPTS | {"negative_prompt": ["water", "ink"], "true_cfg_scale": 3.0},
            {"negative_prompt": ["water", "ink"], "extra": {"true_cfg_scale": 3.0}},
        ),
        (lambda: small.deepfloyd(), PROMPTS | {"guidance_scale": 5.0}, {}),
    ],
    ids=[
        "sd", "sd without guidance", "sd v", "sd of karras kind", "sdxl", "controlnet", "two controlnets", "sdxl controlnet",
        "image variation", "sd3", "flux", "flux with true guidance", "deepfloyd",
    ],
)  # fmt: skip
def test_an_adapter_alone_equals_its_own_pipeline(build, theirs, ours) -> None:
    pipe = build()
    expected = own(pipe, **theirs)
    found = alone(pipe, **ours)
    if type(pipe).__name__ == "IFPipeline":
        expected = (expected / 2 + 0.5).clamp(0, 1)  # it hands tensors out in [-1, 1]
    expected = torch.as_tensor(expected)
    if expected.shape[-1] == 3:
        expected = expected.permute(0, 3, 1, 2)
    assert found.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_model_of_pixels_alone_equals_its_own_pipeline() -> None:
    pipe = small.ddpm()
    expected = pipe(batch_size=2, num_inference_steps=STEPS, output_type="np", generator=small.seeds(1, 2)).images
    torch.testing.assert_close(alone(pipe).permute(0, 2, 3, 1), torch.tensor(expected), rtol=0, atol=1e-4)


def test_a_pair_alone_equals_its_own_pipeline_and_changes_its_expert_at_the_boundary(pair) -> None:
    seen: dict[str, list[float]] = {"structure": [], "texture": []}
    hooks = [
        getattr(pair, role).register_forward_pre_hook(lambda _, args, role=role: seen[role].append(float(args[1][0])))
        for role in seen
    ]
    arguments = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "pt"}
    found = alone(pair, ("一只狐狸", "a lemon"), **arguments, height=96, width=96, extra={"styles": {"photo": 1.5}})
    assert min(seen["structure"]) >= 500 > max(seen["texture"])
    for hook in hooks:
        hook.remove()
    expected = pair(["一只狐狸", "a lemon"], generator=small.seeds(1, 2), styles={"photo": 1.5}, **arguments).images
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_single_generator_alone_equals_its_own_pipeline(shared_pair) -> None:
    single = SingleStage(
        unet=shared_pair.structure, **shared(shared_pair), contracts=contracts(shared_pair, "boost_high")
    )
    arguments = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    expected = single(["a fox", "a lemon"], generator=small.seeds(1, 2), **arguments).images
    torch.testing.assert_close(alone(single, **arguments, height=96, width=96), expected, rtol=0, atol=1e-4)


def test_two_calls_of_guidance_equal_one_batch() -> None:
    for build in (small.stable_diffusion, small.controlled, small.stable_diffusion_3):
        pipe = build()
        image = {"image": EDGES} if build is small.controlled else {}
        images = []
        for batched in (True, False):
            coop = CoopPipeline(pipe, batched_guidance=batched)
            coop.set_progress_bar_config(disable=True)
            size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "pt"}
            images.append(coop("a fox", generator=small.seeds(1), **size, **image).images)
        torch.testing.assert_close(*images, rtol=0, atol=1e-5)
