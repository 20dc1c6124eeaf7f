"""Algorithm 1, part 1: what must hold for every pair of models, shown on random ones."""

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from pangu.diffusion.fusion import NoiseLevel, Prediction, clean_from_prediction, prediction_from_clean, rescaled
from pangu.diffusion.training_levels import ContinuousLevels
from pangu.models.autoencoders import scaling
from pangu.pipelines.coop import Partner
from pangu.sampling.levels import TableLevels, trained_levels
from tests import subtests
from tests.closed_forms import clean_from_epsilon, epsilon_from_clean
from tests.pipelines.coop import small
from tests.pipelines.coop.coops import close, draw, together

checks = subtests.Checks()

SAMPLERS = [
    DDIMScheduler, DDPMScheduler, PNDMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler, KDPM2DiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler,
    DEISMultistepScheduler, EDMEulerScheduler,
]  # fmt: skip


@pytest.mark.long
@subtests.parametrize("sampler", SAMPLERS)
def test_a_model_with_itself_is_itself_for_every_strength(sampler) -> None:
    main, same = small.stable_diffusion(), small.stable_diffusion()
    main.scheduler = same.scheduler = sampler.from_config(main.scheduler.config)
    alone = draw(together(main))
    assert torch.equal(draw(together(main, Partner(same, strength=0))), alone)
    close(draw(together(main, Partner(same, strength=0.3))), alone)


@pytest.mark.long
@subtests.parametrize("sampler", SAMPLERS[2:])
def test_a_partner_that_leaves_in_the_middle_does_not_break_the_sampler(sampler) -> None:
    """Whatever the solver's order: with identical models, where they take turns must not matter."""
    main, same = small.stable_diffusion(), small.stable_diffusion()
    main.scheduler = same.scheduler = sampler.from_config(main.scheduler.config)
    alone = draw(together(main))
    for start, stop in ((0, 0.5), (0.5, 1)):
        close(draw(together(main, Partner(same, strength=1.0, start=start, stop=stop))), alone)


@checks
def models_of_one_autoencoder_are_fused_without_decoding() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1, vae=small.vae(0))
    coop = together(main, Partner(other, strength=0.5))
    counted = coop.plan(height=16, width=16, num_inference_steps=4, measure=False)
    assert (counted.decodes, counted.encodes) == ({"main": 1}, {})
    assert not torch.equal(draw(coop), draw(together(main)))


def reference(main, other, strength: float, steps: int, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1, part 1, as the paper writes it, for two noise-predicting models of one schedule and DDIM."""
    scheduler = type(main.scheduler).from_config(main.scheduler.config)
    scheduler.set_timesteps(steps)

    def network(pipe, noisy, t):
        tokens, negative = pipe.encode_prompt(["a fox"], torch.device("cpu"), 1, True, None)
        null, text = pipe.unet(torch.cat([noisy] * 2), t, torch.cat([negative, tokens])).sample.chunk(2)
        return null + 5.0 * (text - null)

    def decoded(pipe, clean):
        return pipe.vae.decode(clean / scaling(pipe.vae)[0]).sample

    def encoded(pipe, pixels):
        return pipe.vae.encode(pixels).latent_dist.mode() * scaling(pipe.vae)[0]

    z, z_prime = noise, noise
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t][None]
        eps_prime, eps = network(other, z_prime, t), network(main, z, t)
        clean_prime = clean_from_epsilon(z_prime, eps_prime, alpha_bar)
        clean = clean_from_epsilon(z, eps, alpha_bar)
        eps_tilde = epsilon_from_clean(z, encoded(main, decoded(other, clean_prime)), alpha_bar)
        eps_tilde_prime = epsilon_from_clean(z_prime, encoded(other, decoded(main, clean)), alpha_bar)
        z = scheduler.step(strength * eps_tilde + (1 - strength) * eps, t, z).prev_sample
        z_prime = scheduler.step(strength * eps_prime + (1 - strength) * eps_tilde_prime, t, z_prime).prev_sample
    return z, z_prime


@subtests.parametrize("strength", [0.4, 1.0])
@torch.no_grad()
def test_the_walk_is_algorithm_1_line_by_line(strength) -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    expected, _ = reference(main, other, strength, 4, noise)
    coop = together(main, Partner(other, strength=strength))
    close(draw(coop, latents=noise, guidance_scale=5.0), expected, 1e-4)


@torch.no_grad()
def test_at_full_strength_the_partner_walks_alone_and_the_main_follows_through_the_bridge() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs: list[torch.Tensor] = []
    other(
        "a fox", height=16, width=16, num_inference_steps=4, guidance_scale=5.0, latents=noise, output_type="latent",
        callback_on_step_end=lambda pipe, step, t, tensors: theirs.append(tensors["latents"]) or {},
    )  # fmt: skip
    ours: list[torch.Tensor | None] = []
    draw(
        together(main, Partner(other, strength=1.0)),
        latents=noise,
        callback_on_step_end=lambda pipe, step, t, tensors: ours.append(tensors["partner_latents"][0]),
        callback_on_step_end_tensor_inputs=("partner_latents",),
    )
    assert len(ours) == len(theirs) == 4
    for found, expected in zip(ours[:-1], theirs[:-1], strict=True):
        assert found is not None
        close(found, expected, 1e-4)


@checks
def bounds_on_the_main_samples_do_not_bind_the_partner() -> None:
    """A sampler of pixels clips at 1, which latents exceed."""
    walks = []
    for clips in (True, False):
        main, seen = small.ddpm(), []
        main.scheduler = DDIMScheduler(clip_sample=clips, **small.STABLE)
        draw(
            together(main, Partner(small.stable_diffusion(1), strength=1.0)),
            callback_on_step_end=lambda pipe, step, t, tensors, seen=seen: seen.extend(tensors["partner_latents"]),
            callback_on_step_end_tensor_inputs=("partner_latents",),
        )
        walks.append(torch.cat(seen[:-1]))
    assert torch.equal(*walks) and walks[0].abs().max() > 2


@subtests.parametrize("sampler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_an_orthonormal_bridge_is_exact(sampler) -> None:
    """Coop across two spaces that are turns of each other equals fusion within one space."""
    here, there = small.OrthonormalVAE(1), small.OrthonormalVAE(2)
    inner = small.unet(8, channels=12)
    main = small.stable_diffusion(unet=small.unet(7, channels=12), vae=here)
    main.scheduler = sampler.from_config(main.scheduler.config)
    same_space = small.stable_diffusion(1, unet=inner, vae=here)
    other_space = small.stable_diffusion(1, unet=small.SeenThrough(inner, here, there), vae=there)
    noise = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = torch.einsum("ij,bjhw->bihw", there.matrix @ here.matrix.T, noise)
    single = draw(together(main, Partner(same_space, strength=0.6)), latents=noise)
    crossed = draw(together(main, Partner(other_space, strength=0.6, latents=turned)), latents=noise)
    close(crossed, single)


class Recast(nn.Module):
    """A noise-predicting network that takes and gives what a network of another schedule or prediction would."""

    def __init__(self, inner, table: TableLevels, levels) -> None:
        super().__init__()
        self.inner, self.table, self.levels = inner, table, levels
        self.config, self.dtype, self.device = inner.config, inner.dtype, inner.device

    def forward(self, noisy, timestep, **arguments):
        level = self.levels.level(float(timestep[0]))
        own_timestep = self.table.timestep(level.log_snr)
        own_level = self.table.level(own_timestep)
        scaled = rescaled(noisy, level, own_level)
        answer = self.inner(scaled, torch.tensor(own_timestep, dtype=torch.float32), **arguments)[0]
        clean = clean_from_prediction(scaled, answer, own_level, Prediction("epsilon"))
        return (prediction_from_clean(noisy, clean, level, self.levels.prediction),)


@subtests.parametrize("form", ["v_prediction", "flow", "longer schedule"])
def test_every_form_of_one_network_gives_the_same_picture(form) -> None:
    main, epsilon = small.stable_diffusion(), small.stable_diffusion(1)
    table = trained_levels(epsilon.scheduler, "epsilon")
    scheduler = {
        "v_prediction": lambda: DDIMScheduler.from_config(epsilon.scheduler.config, prediction_type="v_prediction"),
        "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
        "longer schedule": lambda: DDIMScheduler(num_train_timesteps=4000, beta_start=1e-5, beta_end=0.006),
    }[form]()
    recast = small.stable_diffusion(1, scheduler=scheduler)
    recast.register_modules(unet=Recast(epsilon.unet, table, trained_levels(scheduler, form)))
    expected = draw(together(main, Partner(epsilon, strength=0.7)))
    close(draw(together(main, Partner(recast, strength=0.7))), expected, 1e-4)
    if form == "v_prediction":
        close(draw(together(recast)), draw(together(epsilon)), 1e-4)


@pytest.mark.long
@subtests.parametrize("sampler", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_an_old_controlnet_steers_a_new_flow_model(sampler) -> None:
    main, old = small.stable_diffusion_3(), small.controlled()
    main.scheduler = sampler(shift=3.0)
    edges = torch.zeros(1, 3, 16, 16)
    edges[..., 4:12, 4:12] = 1
    coop = together(main, Partner(old, strength=0.5, image=edges))
    steered = draw(coop)
    assert steered.isfinite().all()
    other = draw(coop, partners=[{"image": 1 - edges}])
    assert not torch.allclose(steered, other, atol=1e-3)


def test_all_families_cooperate_with_each_other(pair) -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    builders = [
        small.stable_diffusion, small.sdxl, small.stable_diffusion_3, small.flux, small.ddpm, small.deepfloyd,
        small.controlled_sdxl,
    ]  # fmt: skip
    models = [build() for build in builders]
    for place, main in enumerate(models):
        coop = together(main, Partner(models[(place + 3) % len(models)], strength=0.5, image=image))
        arguments = {"num_inference_steps": 2, "image": image if hasattr(main, "controlnet") else None}
        found = draw(coop, **arguments)
        assert found.isfinite().all()
        assert not torch.equal(found, draw(coop, partners=[{"strength": 0.0}], **arguments))
    small_pair = together(pair, Partner(models[0], strength=0.5))
    assert draw(small_pair, height=96, width=96, num_inference_steps=2).isfinite().all()
    varied = together(models[2], Partner(small.image_variation(), image=image[0], strength=0.4))
    assert draw(varied, num_inference_steps=2).isfinite().all()


@subtests.parametrize("sampler", [DDIMScheduler, EulerAncestralDiscreteScheduler])
def test_a_batch_equals_single_runs_and_a_seed_repeats(sampler) -> None:
    main = small.stable_diffusion()
    main.scheduler = sampler.from_config(main.scheduler.config)
    mask = torch.linspace(0, 1, 256).view(16, 16)
    coop = together(
        main,
        [
            Partner(
                small.stable_diffusion(1, vae=small.vae(1, channels=4, levels=3)), strength=0.4, mask=mask, name="b"
            ),
            Partner(small.ddpm(), strength=0.3, start=0.5, name="c"),
        ],
    )
    batch = draw(coop, 1, 2)
    assert torch.equal(batch, draw(coop, 1, 2))
    for index, seed in enumerate((1, 2)):
        close(draw(coop, seed), batch[index : index + 1], 1e-4)


@checks
def a_partner_may_work_at_a_size_of_its_own() -> None:
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    partner = Partner(small.sdxl(), strength=0.5, height=16, width=16, upsample="lanczos", mask=left)
    coop = together(small.stable_diffusion(), partner)
    found = draw(coop, height=32, width=32)
    assert found.shape == (1, 4, 16, 16) and found.isfinite().all()
    assert not torch.equal(found, draw(coop, height=32, width=32, partners=[{"upsample": "bilinear"}]))


@checks
def a_preconditioned_model_of_karras_kind_cooperates_with_a_flow() -> None:
    edm = small.stable_diffusion(1, scheduler=EDMEulerScheduler())
    for main, other in ((small.stable_diffusion_3(), edm), (edm, small.stable_diffusion_3())):
        coop = together(main, Partner(other, strength=0.4))
        found = draw(coop)
        assert found.isfinite().all()
        assert not torch.equal(found, draw(coop, partners=[{"strength": 0.0}]))


@checks
def masks_of_one_and_of_nothing() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    everywhere = draw(together(main, Partner(other, strength=0.6, mask=torch.ones(16, 16))))
    close(everywhere, draw(together(main, Partner(other, strength=0.6))), 1e-4)
    nowhere = draw(together(main, Partner(other, strength=0.6, mask=torch.zeros(8, 8))))
    close(nowhere, draw(together(main)), 1e-4)


@checks
def strength_may_be_a_list_or_a_function_of_the_step() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    falling = [1 - step / 4 for step in range(4)]
    as_list = draw(together(main, Partner(other, strength=falling)))
    as_function = draw(together(main, Partner(other, strength=lambda step, steps: 1 - step / steps)))
    assert torch.equal(as_list, as_function)
    assert not torch.equal(as_list, draw(together(main, Partner(other, strength=0.5))))


@checks
def partners_have_prompts_and_guidance_of_their_own() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    coop = together(main, Partner(other, strength=0.5))
    plain = draw(coop)
    for change in ({"prompt": "ink"}, {"negative_prompt": "ink"}, {"guidance_scale": 1.0}):
        assert not torch.equal(plain, draw(coop, partners=[change]))
    close(draw(coop, partners=[{"prompt": "a fox", "guidance_scale": 5.0}]), plain, 0)


def test_the_callback_can_replace_latents_and_pictures_come_in_every_type() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    coop, seen = together(main, Partner(other)), []

    def blank(pipe, step, timestep, tensors):
        seen.append((pipe, step))
        return {"latents": torch.zeros_like(tensors["latents"])}

    changed = draw(coop, 1, 2, callback_on_step_end=blank)
    assert [step for _, step in seen] == [0, 1, 2, 3] and seen[0][0] is coop
    assert torch.equal(changed[0], changed[1])
    images = draw(coop, 1, 2, output_type="pil", num_images_per_prompt=1)
    assert [image.size for image in images] == [(16, 16)] * 2
    assert draw(coop, output_type="np").shape == (1, 16, 16, 3)
    twice = draw(coop, 5, prompt="a fox", generator=torch.Generator().manual_seed(5), num_images_per_prompt=2)
    assert twice.shape == (2, 4, 8, 8) and not torch.equal(twice[0], twice[1])


@checks
def half_precision_networks_cooperate_with_full_ones() -> None:
    main, other = small.stable_diffusion(), small.stable_diffusion(1)
    full = draw(together(main, Partner(other)))
    half = draw(together(main, Partner(other.to(torch.bfloat16))))
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.2 * full.abs().mean()


LEVELS = [
    trained_levels(DDIMScheduler(**small.STABLE), "a"),
    ContinuousLevels(Prediction("flow_prediction"), 1000, least=1.0),
]


@subtests.parametrize("levels", LEVELS)
def test_a_level_is_found_again_through_its_log_snr(levels) -> None:
    for timestep in (3.0, 250.5, 500.0, 931.25):
        level = levels.level(timestep)
        assert math.isclose(levels.timestep(level.log_snr), timestep, abs_tol=1e-4)
    assert levels.timestep(-math.inf) == pytest.approx(1000 if isinstance(levels, ContinuousLevels) else 999)
    assert levels.timestep(math.inf) == pytest.approx(1 if isinstance(levels, ContinuousLevels) else 0)
    assert NoiseLevel(0.0, 1.0).log_snr == -math.inf


test_cooperation = checks.test()
