"""diffusers' conventions, held by each pipeline of our own generators; `coop/test_conventions.py` does so for cooperations."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, EulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback, SDXLCFGCutoffCallback
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from PIL import Image

from pangu.diffusion.guidance import rescaled_guidance
from pangu.errors import UserError
from pangu.models.schedulers import fresh_scheduler
from pangu.pipelines import register
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.baselines import Cascade, SingleStage
from pangu.pipelines.text_to_image import TextToImagePipeline
from pangu.recipes import tiny
from tests import subtests
from tests.pipelines.drawing import PROMPTS, draw, seeds
from tests.pipelines.test_baselines import RESOLUTIONS, contracts, shared, untrained

checks = subtests.Checks()


EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
NETWORKS = ("structure", "texture", "unet", "base", "middle", "final")
CUTOFF = {"cutoff_step_ratio": None, "cutoff_step_index": 1}


@pytest.fixture(scope="module")
def pipelines() -> list[TextToImagePipeline]:
    """One of each class, of networks that no other test has."""
    pair = untrained_pair(tiny())
    own = shared(pair) | {"styles": {"photo": "a photo of"}}
    single = SingleStage(unet=pair.structure, **own, contracts=contracts(pair, "boost_high"))
    stages = {role.removeprefix("cascade_"): untrained(pair, role) for role in RESOLUTIONS}
    return [pair, single, Cascade(**stages, **own, contracts=contracts(pair, *RESOLUTIONS))]


def networks(pipe: Any) -> list[Any]:
    return [pipe.components[name] for name in NETWORKS if pipe.components.get(name) is not None]


def copied(pipe: Any) -> Any:
    """A pipeline of its own weights, for tests that hook or cast them."""
    parts = {
        name: copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part
        for name, part in pipe.components.items()
    }
    made = type(pipe)(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def by_model(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def by_layer(pipe: Any) -> None:
    """What `enable_sequential_cpu_offload` does; it would call the CPU `cpu:0`, which accelerate takes for another device."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


def by_group(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


@contextmanager
def rows_seen(pipe: Any) -> Iterator[list[int]]:
    """Rows of the batch of each call of a network."""
    seen: list[int] = []
    each = {id(network): network for network in networks(pipe)}.values()
    hooks = [network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0]))) for network in each]
    yield seen
    for hook in hooks:
        hook.remove()


@checks
def a_stop_ends_the_loop_and_draws_what_is_there(pipelines) -> None:
    """What user interfaces do: set `_interrupt`, in the callback or from another thread."""
    for pipe in pipelines:
        last: dict[str, Any] = {}

        def stop(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any], last: Any = last) -> dict[str, Any]:
            assert pipeline.num_timesteps == 5
            assert not pipeline.interrupt
            last.update(step=step, latents=tensors["latents"])
            pipeline._interrupt = step == 1
            return {}

        with rows_seen(pipe) as seen:
            stopped = draw(pipe, output_type="latent", callback_on_step_end=stop)
        assert last["step"] == 1 and seen == [4, 4], type(pipe).__name__
        assert torch.equal(stopped, last["latents"])
        with rows_seen(pipe) as seen:
            draw(pipe)
        assert len(seen) == (15 if isinstance(pipe, Cascade) else 5), "the next call runs to its end"


@checks
def a_callback_reads_the_call_and_may_change_its_guidance(pipelines) -> None:
    """The documented callback that switches guidance off: `prompt_embeds.chunk(2)[-1]` and `_guidance_scale = 0`."""
    for pipe in pipelines:
        found: list[Any] = []

        def off(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any], found: Any = found) -> dict[str, Any]:
            found.append((pipeline.guidance_scale, pipeline.do_classifier_free_guidance, pipeline.guidance_rescale))
            if step == 1:
                pipeline._guidance_scale = 0.0
                tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            return tensors

        names = ["latents", "prompt_embeds"]
        with rows_seen(pipe) as seen:
            draw(pipe, guidance_rescale=0.5, callback_on_step_end=off, callback_on_step_end_tensor_inputs=names)
        assert seen[:5] == [4, 4, 2, 2, 2], type(pipe).__name__
        assert found[:3] == [(3.0, True, 0.5), (3.0, True, 0.5), (0.0, False, 0.5)]
        if isinstance(pipe, Cascade):
            assert seen[5:7] == [4, 4], "each stage begins as it was asked"


@checks
def the_cutoff_callbacks_of_diffusers_work(pipelines) -> None:
    """They equal a trajectory whose guidance ends by hand after the same step."""

    def by_hand(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline._guidance_scale = 1.0 if step >= 1 else pipeline.guidance_scale
        return {}

    several = MultiPipelineCallbacks([SDCFGCutoffCallback(**CUTOFF), SDXLCFGCutoffCallback(**CUTOFF)])
    for pipe in pipelines:
        expected = draw(pipe, ["fox"], callback_on_step_end=by_hand)
        assert not torch.equal(expected, draw(pipe, ["fox"]))
        for callback in (SDCFGCutoffCallback(**CUTOFF), SDXLCFGCutoffCallback(**CUTOFF), several):
            assert torch.equal(draw(pipe, ["fox"], callback_on_step_end=callback), expected), type(pipe).__name__


def test_a_callback_may_change_what_is_drawn(pair) -> None:
    """Replaced embeddings are followed from the next step on; what can not be followed is refused."""
    lemon = pair.encode_prompt("lemon")
    given = dict(zip(EMBEDS, lemon, strict=True))
    names = ("latents", "prompt_embeds", "negative_prompt_embeds", "add_text_embeds", "add_time_ids")

    def another(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert list(tensors) == list(names)
        assert [len(tensors[name]) for name in names] == [1, 2, 1, 2, 2]
        return {"prompt_embeds": given["prompt_embeds"], "add_text_embeds": given["pooled_prompt_embeds"]}

    asked = {"callback_on_step_end": another, "callback_on_step_end_tensor_inputs": names}
    drawn = draw(pair, ["fox"], seeds(1), output_type="latent", **asked)
    start = pair.start(
        pair.encode_prompt("fox"), height=96, width=96, num_inference_steps=5, guidance_scale=3.0, generators=seeds(1)
    )
    first = pair.advance(replace(start, timesteps=start.timesteps[:1]), "structure")
    told = replace(first.condition, prompt=lemon.prompt)
    rest = replace(first, timesteps=start.timesteps, condition=told)
    rest = pair.advance(pair.advance(rest, "structure"), "texture")
    assert torch.equal(drawn, rest.latents_bchw)
    refused: dict[str, Callable[[Any], Any]] = {
        "latents": lambda tensor: tensor[:, :2],
        "prompt_embeds": lambda tensor: tensor[:, :3],
        "add_time_ids": lambda tensor: tensor + 1,
    }
    for name, change in refused.items():

        def bad(pipeline: Any, step: int, t: Any, tensors: Any, name: str = name, change: Any = change) -> Any:
            return {name: change(tensors[name])}

        with pytest.raises(UserError, match=name):
            draw(pair, ["fox"], callback_on_step_end=bad, callback_on_step_end_tensor_inputs=[name])
    with pytest.raises(UserError, match=r"may name .* not \['noise'\]"):
        draw(pair, callback_on_step_end=bad, callback_on_step_end_tensor_inputs=["noise"])


@checks
def embeddings_draw_what_their_text_draws(pipelines) -> None:
    for pipe in pipelines:
        said = pipe.encode_prompt("a fox", "water", num_images_per_prompt=1, device="cpu")
        assert [tuple(tensor.shape[:1]) for tensor in said] == [(1,)] * 4, "a string is one prompt, not its letters"
        assert len(pipe.encode_prompt(PROMPTS, "water", num_images_per_prompt=3).prompt["tokens"]) == 6
        call = {"num_images_per_prompt": 2, "num_inference_steps": 2}
        expected = draw(pipe, ["a fox"], seeds(1, 2), negative_prompt="water", **call)
        given = dict(zip(EMBEDS, said, strict=True))
        assert torch.equal(draw(pipe, None, seeds(1, 2), **given, **call), expected), type(pipe).__name__
        positive = {name: given[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
        partly = draw(pipe, None, seeds(1, 2), **positive, negative_prompt="water", **call)
        torch.testing.assert_close(partly, expected, rtol=0, atol=1e-4)


def test_a_pair_without_text_encoder_draws_from_embeddings(pair) -> None:
    given = dict(zip(EMBEDS, pair.encode_prompt("fox"), strict=True))
    expected = draw(pair, ["fox"], seeds(1), num_inference_steps=2)
    pair.register_modules(text_encoder=None, tokenizer=None)
    assert torch.equal(draw(pair, None, seeds(1), num_inference_steps=2, **given), expected)
    alone = {name: given[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    assert draw(pair, None, seeds(1), num_inference_steps=2, guidance_scale=1.0, **alone).isfinite().all()
    with pytest.raises(UserError, match="without its text encoder"):
        draw(pair, None, seeds(1), num_inference_steps=2, **alone)


def test_contradictory_embeddings_get_one_sentence(pair) -> None:
    given = dict(zip(EMBEDS, pair.encode_prompt("fox"), strict=True))
    alone, pooled = {"prompt_embeds": given["prompt_embeds"]}, given["pooled_prompt_embeds"]
    whole = alone | {"pooled_prompt_embeds": pooled}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (["fox"], given, "prompt and prompt_embeds say the same twice"),
        (None, {}, "give prompt or prompt_embeds"),
        (None, alone, "pooled_prompt_embeds belong together"),
        (None, given | {"negative_prompt": "water"}, "negative_prompt and negative_prompt_embeds"),
        (None, {"prompt_embeds": given["prompt_embeds"][..., :5], "pooled_prompt_embeds": pooled}, r"\(1, .*, 5\)"),
        (None, alone | {"pooled_prompt_embeds": pooled.repeat(2, 1)}, r"pooled prompt_embeds have the shape \(2, "),
        (None, whole | {"styles": {"photo": 2.0}}, "styles put a prefix before the prompt"),
        (["fox"], {"guidance_rescale": 2.0}, "guidance_rescale must lie in 0 ... 1"),
    ]
    for prompts, arguments, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            draw(pair, prompts, seeds(1), **arguments)


@checks
def schedules_of_the_callers_own(pipelines) -> None:
    """What a scheduler would choose itself draws the same; other schedules are checked against [0, T) and the boundary."""
    for pipe in pipelines:
        trained = pipe.scheduler
        ddim = fresh_scheduler(trained, 5).timesteps.tolist()
        assert torch.equal(draw(pipe, timesteps=ddim), draw(pipe)), type(pipe).__name__
        pipe.scheduler = UniPCMultistepScheduler.from_config(trained.config)
        with pytest.raises(UserError, match=r"UniPCMultistepScheduler takes no timesteps"):
            draw(pipe, timesteps=[900, 100])
        pipe.scheduler = EulerDiscreteScheduler.from_config(trained.config, timestep_spacing="trailing")
        try:
            expected, chosen = draw(pipe), EulerDiscreteScheduler.from_config(pipe.scheduler.config)
            chosen.set_timesteps(5)
            own = [int(t) for t in chosen.timesteps]
            assert torch.equal(draw(pipe, timesteps=own, num_inference_steps=3), expected), type(pipe).__name__
            sigmas = [float(sigma) for sigma in chosen.sigmas]
            torch.testing.assert_close(draw(pipe, sigmas=sigmas), expected, rtol=0, atol=1e-3)
            cases: list[tuple[dict[str, Any], str]] = [
                ({"timesteps": own, "sigmas": sigmas}, "give one of the two"),
                ({"timesteps": [1000, 10]}, r"t = 1000, but the generators know t in \[0, 1000\)"),
                ({"timesteps": [10, 900]}, "must fall"),
                ({"timesteps": []}, "at least one finite number"),
            ]
            if pipe is pipelines[0]:
                cases.append(({"timesteps": [900, 600]}, r"no step in \[0, 500\), which the texture generator owns"))
            for arguments, sentence in cases:
                with pytest.raises(UserError, match=sentence):
                    draw(pipe, **arguments)
        finally:
            pipe.scheduler = trained


def test_guidance_is_rescaled_as_in_diffusers(pair) -> None:
    torch.manual_seed(0)
    guided, conditional = torch.randn(2, 4, 8, 8) * 5, torch.randn(2, 4, 8, 8)
    for rescale in (0.0, 0.3, 1.0):
        theirs = rescale_noise_cfg(guided, conditional, rescale)
        torch.testing.assert_close(rescaled_guidance(guided, conditional, rescale), theirs)
    plain = draw(pair, guidance_scale=8.0)
    assert torch.equal(draw(pair, guidance_scale=8.0, guidance_rescale=0.0), plain)
    assert not torch.equal(draw(pair, guidance_scale=8.0, guidance_rescale=0.7), plain)


@checks
def guidance_of_at_most_one_is_the_caption_alone(pipelines) -> None:
    """As diffusers has it: `guidance_scale=0.0` switches guidance off."""
    for pipe in pipelines:
        alone = draw(pipe, num_inference_steps=2, guidance_scale=1.0)
        for scale in (0.0, 0.5):
            assert torch.equal(draw(pipe, num_inference_steps=2, guidance_scale=scale), alone)


@checks
def what_a_call_returns(pipelines) -> None:
    for pipe in pipelines:
        options = {"num_inference_steps": 2, "generator": seeds(1)}
        pipe.set_progress_bar_config(disable=True)
        (pictures,) = pipe("fox", return_dict=False, **options)
        assert [type(picture) for picture in pictures] == [Image.Image]
        assert pipe("fox", output_type="np", **options).images.shape == (1, 96, 96, 3)
        assert pipe("fox", output_type="pt", **options).images.shape == (1, 3, 96, 96)
        latents = pipe("fox", output_type="latent", **options).images
        assert latents.shape == (1, 16, 12, 12)
        assert pipe.image_processor.postprocess(pipe.decode(latents, "pt"), "pil", [False])[0].size == (96, 96)


@pytest.mark.long
def test_all_ways_of_offloading_draw_the_same(pipelines) -> None:
    """The accelerator is the CPU, which changes no bit; offloaded layers have no weights of their own (meta tensors)."""
    for pipe in pipelines:
        expected = draw(pipe, num_inference_steps=2)
        for mode in (by_model, by_layer, by_group):
            offloaded = copied(pipe)
            mode(offloaded)
            if mode is by_layer:
                assert offloaded.text_encoder.device.type == "meta"
            for _ in range(2):
                assert torch.equal(draw(offloaded, num_inference_steps=2), expected), (type(pipe).__name__, mode)
            assert offloaded.encode_prompt("fox").prompt["tokens"].device.type == "cpu"


@checks
def components_make_the_same_pipeline_again(pipelines) -> None:
    """`Class(**pipe.components)`, `from_pipe` and `AutoPipelineForText2Image.from_pipe` share every model and every setting."""
    register()
    for pipe in pipelines:
        cls = type(pipe)
        for again in (cls(**pipe.components), cls.from_pipe(pipe), AutoPipelineForText2Image.from_pipe(pipe)):
            assert type(again) is cls
            assert {name: id(part) for name, part in again.components.items() if isinstance(part, torch.nn.Module)} == {
                name: id(part) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)
            }
            for name in ("contracts", "hidden_layers", "styles", "sees_padding"):
                assert again.config[name] == pipe.config[name]
    with pytest.raises(ValueError, match="expected"):
        Cascade.from_pipe(pipelines[0])
    other = copied(pipelines[0])
    assert type(other)(**other.components, styles={"ink": "ink drawing of"}).config["styles"] == {
        "ink": "ink drawing of"
    }
    type(other)(**other.components, contracts=other.config.contracts, styles={"ink": "ink drawing of"})
    with pytest.raises(UserError, match="of different settings; use from_pipe"):
        type(other)(**other.components)
    assert type(other).from_pipe(other).config["styles"] == other.config["styles"]


@checks
def a_folder_is_loaded_by_its_name_in_any_dtype_and_variant(pipelines, tmp_path, caplog) -> None:
    """Without a word about types, by the class, and by `DiffusionPipeline` and `AutoPipelineForText2Image` once registered."""
    register()
    logging.getLogger("diffusers").propagate = True
    for pipe in pipelines:
        cls, folder = type(pipe), tmp_path / type(pipe).__name__
        half = copied(pipe).to(torch.bfloat16)
        assert half.dtype == torch.bfloat16
        half.save_pretrained(folder, variant="bf16")
        expected = draw(half, num_inference_steps=2)
        for loader in (cls, DiffusionPipeline, AutoPipelineForText2Image):
            again = loader.from_pretrained(folder, dtype=torch.bfloat16, variant="bf16")
            assert type(again) is cls and again.dtype == torch.bfloat16
            assert torch.equal(draw(again, num_inference_steps=2), expected)
        assert cls.from_pretrained(folder, variant="bf16").to(torch.float32).dtype == torch.float32
    logging.getLogger("diffusers").propagate = False
    assert not [record.message for record in caplog.records if "Expected types" in record.message]


@checks
def memory_switches_reach_every_part(pipelines) -> None:
    for pipe in pipelines:
        made = copied(pipe)
        expected = draw(made, num_inference_steps=2)
        made.enable_vae_slicing()
        made.enable_attention_slicing()
        made.vae.enable_tiling()
        made.disable_vae_tiling()
        assert made.vae.use_slicing and not made.vae.use_tiling
        torch.testing.assert_close(draw(made, num_inference_steps=2), expected, rtol=0, atol=1e-4)
        made.enable_vae_tiling()
        assert made.vae.use_tiling
        made.disable_vae_slicing()
        made.disable_attention_slicing()
        made.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        assert all(network.up_blocks[0].s1 == 0.9 for network in networks(made))
        made.disable_freeu()
        assert all(network.up_blocks[0].s1 is None for network in networks(made))


@checks
def attention_processors_get_their_arguments(pipelines) -> None:
    for pipe in pipelines:
        seen: list[Any] = []
        made = copied(pipe)

        def keep(module: Any, args: Any, kwargs: dict[str, Any], seen: Any = seen) -> None:
            seen.append(kwargs.get("cross_attention_kwargs"))

        for network in networks(made):
            network.register_forward_pre_hook(keep, with_kwargs=True)
        draw(made, num_inference_steps=2, cross_attention_kwargs={"scale": 0.5})
        assert made.cross_attention_kwargs == {"scale": 0.5} and seen and set(map(str, seen)) == {"{'scale': 0.5}"}


test_conventions = checks.test()
