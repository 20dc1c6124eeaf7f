"""A cooperation is a diffusers pipeline: its own conventions, held against diffusers' pipelines where those have the same."""

from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback

from pangu.errors import UserError
from pangu.pipelines.coop import CoopPipeline, Handoff, Partner
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.coop.coops import close, draw, together

CUTOFF = {"cutoff_step_ratio": None, "cutoff_step_index": 1}


def whole(**low: Any) -> CoopPipeline:
    """A cooperation with everything: a partner behind a bridge of its own, one that shares the main's latents, a low stage."""
    main = small.stable_diffusion()
    bridged = Partner(small.sdxl(1), name="old", strength=[0.2, 0.3, 0.1, 0.0], every=2, bridge_vae=small.vae(41))
    beside = Partner(small.stable_diffusion(2, vae=small.vae(0)), name="beside", strength=0.3, prompt="a cat")
    handoff = Handoff(small.stable_diffusion(3), t_low=600, height=16, width=16, upsample="bilinear", **low)
    return together(main, [bridged, beside], handoff, bridge_vae=small.vae(0))


def test_it_is_a_diffusers_pipeline_of_pipelines() -> None:
    coop = whole()
    assert isinstance(coop, DiffusionPipeline)
    assert [type(pipe).__name__ for pipe in coop.pipelines] == [
        "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionPipeline", "StableDiffusionPipeline",
    ]  # fmt: skip
    assert (coop.device, coop.dtype, coop._execution_device) == (
        torch.device("cpu"),
        torch.float32,
        torch.device("cpu"),
    )
    expected = draw(coop)
    for again in (CoopPipeline(**coop.components), CoopPipeline.from_pipe(coop)):
        again.set_progress_bar_config(disable=True)
        assert [id(pipe) for pipe in again.pipelines] == [id(pipe) for pipe in coop.pipelines]
        assert torch.equal(draw(again), expected)
    alone = CoopPipeline.from_pipe(coop.main)
    assert (alone.main, alone.partners) == (coop.main, ())
    half = coop.to(torch.bfloat16)
    assert half is coop and {pipe.dtype for pipe in coop.pipelines} == {torch.bfloat16} == {coop.dtype}
    assert {vae.dtype for vae in coop._autoencoders} == {torch.bfloat16}
    assert draw(coop).isfinite().all()


def test_it_is_saved_and_loaded_as_one_folder(tmp_path) -> None:
    coop = whole()
    expected = draw(coop)
    coop.save_pretrained(tmp_path / "coop", variant="fp32")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    again = CoopPipeline.from_pretrained(tmp_path / "coop", variant="fp32")
    again.set_progress_bar_config(disable=True)
    close(draw(again), expected)  # weights that a file maps lie elsewhere in memory, which moves the last digit
    assert [adapter.name for adapter in again.adapters] == ["main", "old", "beside"]
    half = CoopPipeline.from_pretrained(tmp_path / "coop", torch_dtype=torch.bfloat16, variant="fp32")
    assert {pipe.dtype for pipe in half.pipelines} == {torch.bfloat16}
    with pytest.raises(UserError, match="holds no CoopPipeline"):
        CoopPipeline.from_pretrained(tmp_path / "coop" / "main")
    masked = together(small.stable_diffusion(), Partner(small.stable_diffusion(1), mask=torch.ones(16, 16)))
    with pytest.raises(UserError, match=r"partner: mask is a Tensor, .* leave it to the call"):
        masked.save_pretrained(tmp_path / "masked")


@pytest.mark.long
def test_all_ways_of_offloading_draw_the_same() -> None:
    """The accelerator is the CPU; equal autoencoders are still found to be equal where their layers are meta tensors."""
    expected = draw(whole())

    def by_model(coop: CoopPipeline) -> None:
        coop.enable_model_cpu_offload(device="cpu")

    def by_group(coop: CoopPipeline) -> None:
        coop.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")

    def by_layer(coop: CoopPipeline) -> None:
        for pipe in coop.pipelines:
            for part in pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)

    for mode in (by_model, by_group, by_layer):
        coop = whole()
        mode(coop)
        for _ in range(2):
            assert torch.equal(draw(coop), expected), mode.__name__
    assert coop.main.vae.device.type == "meta"
    coop.remove_all_hooks()
    assert coop.main.vae.device.type == "cpu"


def test_a_stop_ends_either_stage() -> None:
    coop = whole()
    steps: list[int] = []

    def stop(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        assert (pipeline.num_timesteps, pipeline.guidance_scale, pipeline.do_classifier_free_guidance) == (4, 5.0, True)
        pipeline._interrupt = True
        return {}

    draw(coop, callback_on_step_end=stop)
    assert len(steps) == 1
    seen: list[float] = []

    def interrupts(module: Any, args: Any) -> None:
        seen.append(float(args[1][0]))
        coop._interrupt = True

    hook = coop.low.main.unet.register_forward_pre_hook(interrupts)
    main = coop.main.unet.register_forward_pre_hook(lambda module, args: seen.append(-1.0))
    assert draw(coop).isfinite().all()
    assert -1.0 not in seen and len(seen) == 2, "one step of the low stage and its estimate, none of the main"
    hook.remove()
    main.remove()


@subtests.parametrize("kind", ["sd", "sdxl"])
def test_alone_it_draws_what_diffusers_draws_under_callbacks_schedules_and_rescaled_guidance(kind) -> None:
    pipe = small.stable_diffusion() if kind == "sd" else small.sdxl()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    cutoff = (SDCFGCutoffCallback if kind == "sd" else SDXLCFGCutoffCallback)(**CUTOFF)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    call = {"height": 16, "width": 16, "guidance_scale": 6.0, "latents": noise, "output_type": "latent"}
    if kind == "sdxl":
        call |= {"original_size": (16, 16), "target_size": (16, 16)}
    ours = {name: value for name, value in call.items() if "_size" not in name}
    coop = together(pipe)
    for arguments in (
        {"num_inference_steps": 4, "callback_on_step_end": cutoff},
        {"timesteps": [900, 500, 300, 20]},
        {"num_inference_steps": 4, "guidance_rescale": 0.7},
    ):
        theirs = pipe("a fox", **call, **arguments).images
        close(coop("a fox", **ours, **arguments).images, theirs, 1e-4)


def test_a_callback_may_change_the_condition_of_the_main_model(pair) -> None:
    """A pair in a cooperation follows the cutoff as the pair alone does; what the main is not told can not be asked for."""
    coop = together(pair)
    call: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    call |= {"generator": torch.Generator().manual_seed(1)}
    alone = pair("a fox", callback_on_step_end=SDXLCFGCutoffCallback(**CUTOFF), **call).images
    call["generator"].manual_seed(1)
    close(coop("a fox", callback_on_step_end=SDXLCFGCutoffCallback(**CUTOFF), **call).images, alone, 1e-4)
    pair.scheduler = EulerDiscreteScheduler.from_config(pair.scheduler.config)
    with pytest.raises(UserError, match="which the texture generator owns"):
        together(pair)("a fox", timesteps=[900, 700])
    with pytest.raises(UserError, match="main is told no add_text_embeds"):
        draw(together(small.stable_diffusion()), callback_on_step_end=SDXLCFGCutoffCallback(**CUTOFF))
    unguided = together(small.stable_diffusion())

    def on(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline._guidance_scale = 5.0
        return {}

    with pytest.raises(UserError, match="without guidance, which can not be switched on"):
        draw(unguided, guidance_scale=1.0, callback_on_step_end=on)


def test_switches_reach_every_model() -> None:
    coop = whole()
    coop.enable_vae_slicing()
    coop.enable_attention_slicing()
    assert all(vae.use_slicing for vae in coop._autoencoders)
    coop.disable_vae_slicing()
    coop.enable_vae_tiling()
    assert all(vae.use_tiling for vae in coop._autoencoders)
    coop.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert len(coop._denoisers) == 4 and all(unet.up_blocks[0].s1 == 0.9 for unet in coop._denoisers)
    with pytest.raises(UserError, match="enable_freeu can not be asked of SD3Transformer2DModel"):
        together(small.stable_diffusion_3()).enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
