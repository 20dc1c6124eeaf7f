"""The pair as a diffusers pipeline, on untrained networks of the tiny recipe."""

import pickle
from copy import deepcopy

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from pangu.errors import UserError
from pangu.pipelines.denoiser import checked_denoiser
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from tests import subtests
from tests.pipelines.drawing import PROMPTS, draw, seeds


def test_a_saved_pair_draws_the_same_bits(pair, tmp_path) -> None:
    pair.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    again = PanGuDrawPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(pair), draw(again))
    assert again.contract("structure") == pair.contract("structure")


def test_same_seed_same_image_and_another_seed_another(pair) -> None:
    first = draw(pair, generator=seeds(1, 2))
    assert torch.equal(first, draw(pair, generator=seeds(1, 2)))
    assert not torch.equal(first, draw(pair, generator=seeds(3, 4)))


def test_a_batch_equals_single_runs(pair) -> None:
    batch = draw(pair)
    for index, prompt in enumerate(PROMPTS):
        single = draw(pair, [prompt], seeds(index + 1))
        torch.testing.assert_close(batch[index : index + 1], single, rtol=0, atol=1e-4)


def test_the_prompt_matters_in_both_languages(pair) -> None:
    fox, lemon = draw(pair, ["一只狐狸"], seeds(1)), draw(pair, ["一个柠檬"], seeds(1))
    assert not torch.equal(fox, lemon)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        UniPCMultistepScheduler,
    ],
)
def test_any_scheduler_walks_through_the_hand_off(pair, scheduler) -> None:
    """With one network on both sides, where the boundary lies must not change a bit, whatever the solver's order."""
    pair.scheduler = scheduler.from_config(pair.scheduler.config)
    pair.register_modules(texture=pair.structure)
    images = []
    for boundary in (300, 700):
        contracts = {role: dict(values) for role, values in pair.config.contracts.items()}
        contracts["structure"]["low"] = contracts["texture"]["high"] = boundary
        moved = PanGuDrawPipeline(**pair.components, contracts=contracts, hidden_layers=[-1, -1])
        images.append(draw(moved, ["fox"], seeds(1), num_inference_steps=8))
    assert images[0].isfinite().all()
    assert torch.equal(*images)


def test_each_expert_runs_exactly_its_own_timesteps(pair) -> None:
    """The expert follows from the CURRENT timestep: the structure network never sees a step below the boundary."""
    seen: dict[str, list[float]] = {"structure": [], "texture": []}
    hooks = [
        getattr(pair, role).register_forward_pre_hook(lambda _, args, role=role: seen[role].append(float(args[1][0])))
        for role in seen
    ]
    pair("fox", num_inference_steps=20, generator=torch.Generator().manual_seed(0), output_type="latent")
    for hook in hooks:
        hook.remove()
    assert len(seen["structure"]) + len(seen["texture"]) == 20
    assert min(seen["structure"]) >= 500 > max(seen["texture"])


def test_a_trajectory_continues_in_another_process_to_the_bit(pair, tmp_path) -> None:
    pair.save_pretrained(tmp_path)
    first = PanGuDrawPipeline.from_pretrained(tmp_path, texture=None, vae=None)
    second = PanGuDrawPipeline.from_pretrained(tmp_path, structure=None, text_encoder=None)
    start = first.start(
        first.encode_prompt(["fox"]),
        height=96,
        width=96,
        num_inference_steps=6,
        guidance_scale=3.0,
        generators=seeds(1),
    )
    handed_over = pickle.loads(pickle.dumps(first.advance(start, "structure")))
    assert 0 < handed_over.step < 6
    finished = second.advance(handed_over, "texture")
    whole = draw(pair, ["fox"], seeds(1), num_inference_steps=6)
    assert finished.finished
    assert torch.equal(second.decode(finished.latents_bchw, "pt"), whole)
    with pytest.raises(UserError, match="without its texture"):
        first.advance(handed_over, "texture")


def test_guidance_of_one_is_the_conditional_model_alone(pair) -> None:
    conditional = draw(pair, ["fox"], seeds(1), guidance_scale=1.0)
    also = draw(pair, ["fox"], seeds(1), guidance_scale=1.0, negative_prompt="water")
    assert torch.equal(conditional, also)
    assert not torch.equal(conditional, draw(pair, ["fox"], seeds(1), guidance_scale=5.0))


def test_images_per_prompt_and_output_types(pair) -> None:
    images = draw(pair, ["fox", "lemon"], seeds(1, 2, 3, 4), num_images_per_prompt=2, output_type="pil")
    assert [image.size for image in images] == [(96, 96)] * 4
    assert draw(pair, output_type="np").shape == (2, 96, 96, 3)
    assert draw(pair, output_type="latent").shape == (2, 16, 12, 12)


def test_the_callback_sees_every_step_and_can_change_the_latents(pair) -> None:
    steps: list[int] = []

    def blank(pipeline, step, timestep, tensors):
        steps.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    changed = draw(pair, callback_on_step_end=blank)
    assert steps == [0, 1, 2, 3, 4]
    assert torch.equal(changed[0], changed[1])


@subtests.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must lie in 1 ... 1000"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"height": 100}, "No preset is 100x96"),
        ({"output_type": "gif"}, "output_type"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"generator": [torch.Generator()]}, "list of 1, but 2 images"),
        ({"negative_prompt": ["a", "b", "c"]}, "2 prompts came with 3"),
    ],
)
def test_bad_arguments_get_one_sentence(pair, arguments, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        draw(pair, **arguments)


def test_a_scheduler_of_another_schedule_is_refused(pair) -> None:
    pair.scheduler = EulerDiscreteScheduler.from_config(pair.scheduler.config, beta_end=0.02)
    with pytest.raises(UserError, match=r"beta_end = 0.02, but the generators were trained with 0.012"):
        draw(pair)
    pair.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UserError, match="FlowMatchEulerDiscreteScheduler samples models that predict flows"):
        draw(pair)


def test_a_pair_with_a_gap_cannot_be_built(pair) -> None:
    contracts = {role: dict(values) for role, values in pair.config.contracts.items()}
    contracts["texture"]["high"] = 400
    with pytest.raises(UserError, match=r"Gap in the pair.*\[400, 500\)"):
        PanGuDrawPipeline(**pair.components, contracts=contracts)


def test_a_generator_is_asked_without_a_look_at_what_is_on_its_device(shared_pair) -> None:
    """Nothing can be read from tensors of the device `meta`."""
    network = deepcopy(shared_pair.structure).to("meta")
    contract = shared_pair.contract("structure")
    ask = checked_denoiser(network, contract, "structure", 0)
    config, pooled = network.config, shared_pair.encode_prompt(["fox"]).prompt["pooled"].shape[-1]
    tensors = [
        torch.empty(2, config.in_channels, 4, 4),
        torch.empty(2, 6, config.cross_attention_dim),
        torch.empty(2, pooled),
    ]
    noisy, *texts = (tensor.to("meta") for tensor in tensors)
    assert ask(noisy, torch.tensor([999, 500]), *texts).device.type == "meta"
    with pytest.raises(UserError, match="499"):
        ask(noisy, torch.tensor([999, 499]), *texts)
