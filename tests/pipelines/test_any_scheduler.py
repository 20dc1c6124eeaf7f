"""Whatever scheduler is put in: a finished, finite picture or one sentence, never an endless or a broken-off walk."""

import json
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch

from pangu.errors import NotFinite, UserError
from pangu.evaluate.generate import scheduler_of
from pangu.models.autoencoders import decode_latents
from pangu.models.schedulers import fresh_scheduler, sampler
from pangu.pipelines.coop import CoopPipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.sampling.condition import text_condition
from pangu.sampling.question import DenoiserModel, Network, Question
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory, clean_latents
from tests.pipelines.coop import small
from tests.pipelines.drawing import draw, seeds
from tests.pipelines.test_baselines import RESOLUTIONS, Cascade, SingleStage, contracts, shared, untrained

CLASSES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name != "SchedulerMixin")


def schedulers(like: Any) -> Iterator[Any]:
    """One of every class, over the noise levels of `like` as `from_config` gives them, and as the class defaults have it."""
    diffusers.utils.logging.set_verbosity_error()  # of values that a class makes no use of
    for name in CLASSES:
        kind = getattr(diffusers, name)
        for make in (lambda kind=kind: kind.from_config(like.config), kind):
            try:
                yield make()
            except (TypeError, ValueError, ImportError):
                continue  # of tokens, of molecules, or by a package that is not here


def follow(pipeline: Any) -> Any:
    """The same pipeline, whose networks answer a share of what they see, at timesteps of their own interval alone."""

    def denoiser(role: Any, *_: Any) -> Any:
        def predict(noisy: torch.Tensor, timestep: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            pipeline.contract(role).interval.check(float(timestep[0]), role)
            return 0.3 * noisy

        return predict

    pipeline.denoiser = denoiser
    return pipeline


def ends(draw_once: Any, there: Iterator[Any], counts: tuple[int, ...] = (6,)) -> tuple[set[str], set[str]]:
    """Names of the classes that drew something finite, and of those that were refused."""
    drew: set[str] = set()
    refused: set[str] = set()
    for scheduler in there:
        for steps in counts:
            try:
                assert draw_once(scheduler, steps).isfinite().all(), type(scheduler).__name__
                drew.add(type(scheduler).__name__)
            except UserError as error:
                assert str(error).endswith("."), "a sentence"
                refused.add(type(scheduler).__name__)
    return drew, refused - drew


@pytest.fixture
def cascade(shared_pair: PanGuDrawPipeline) -> Cascade:
    networks = {role.removeprefix("cascade_"): untrained(shared_pair, role) for role in RESOLUTIONS}
    return Cascade(**networks, **shared(shared_pair), contracts=contracts(shared_pair, *RESOLUTIONS))


@pytest.mark.long
def test_every_scheduler_of_diffusers_draws_to_the_end_or_is_refused(pair, cascade, shared_pair) -> None:
    single = SingleStage(
        unet=shared_pair.structure, **shared(shared_pair), contracts=contracts(shared_pair, "boost_high")
    )
    found = []
    for pipeline in (pair, single, cascade):
        follow(pipeline)

        def draw_once(scheduler: Any, steps: int, pipeline: Any = pipeline) -> torch.Tensor:
            pipeline.scheduler = scheduler
            counted: list[int] = []

            def count(_: Any, step: int, *__: Any) -> dict[str, Any]:
                counted.append(step)
                return {}

            options = {"num_inference_steps": steps, "output_type": "latent", "callback_on_step_end": count}
            latents = draw(pipeline, ["fox"], seeds(1), **options)
            assert len(counted) >= steps, "a step was left out"
            return latents

        found.append(ends(draw_once, schedulers(pipeline.scheduler), (6, 61) if pipeline is pair else (6,)))
    drew, refused = found[0]
    assert found == [(drew, refused)] * 3
    assert {"DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler"} <= drew
    assert {
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "DDIMInverseScheduler",
        "RePaintScheduler",
    } <= refused


@pytest.mark.long
def test_so_does_a_cooperation() -> None:
    pipe = small.stable_diffusion()

    def draw_once(scheduler: Any, steps: int) -> torch.Tensor:
        pipe.scheduler = scheduler
        coop = CoopPipeline(pipe)
        coop.models.main.network_call = lambda noisy, *_: 0.3 * noisy
        return draw(coop, ["fox"], seeds(1), num_inference_steps=steps, output_type="latent")

    drew, refused = ends(draw_once, schedulers(pipe.scheduler))
    assert {"DDIMScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"} <= drew
    assert {"DDIMInverseScheduler", "RePaintScheduler", "IPNDMScheduler", "KarrasVeScheduler"} <= refused


def test_an_evaluation_names_a_scheduler_that_can_not_be_made(pair) -> None:
    for name, sentence in (
        ("NoSuchScheduler", "diffusers has no scheduler 'NoSuchScheduler'"),
        ("StableDiffusionPipeline", "diffusers has no scheduler 'StableDiffusionPipeline'"),
        ("VQDiffusionScheduler", "VQDiffusionScheduler can not be made of the pair's noise schedule"),
    ):
        with pytest.raises(UserError, match=sentence):
            scheduler_of(name, pair.scheduler)
    assert type(scheduler_of("EulerDiscreteScheduler", pair.scheduler)) is diffusers.EulerDiscreteScheduler


def test_a_walk_ends_where_nobody_owns_the_timestep_and_says_so() -> None:
    said = torch.zeros(1, 1, 1)
    condition = text_condition(said, said[:, 0], said, said[:, 0])
    scheduler = fresh_scheduler(sampler(tiny().schedule), 4)
    start = Trajectory(torch.zeros(1, 1, 2, 2), scheduler.timesteps, 0, scheduler, condition)
    state = SamplingState(DenoiserModel(lambda noisy, *_: noisy), start)
    stopped = walk(state, lambda state: state.trajectory.timestep >= 500).trajectory
    assert stopped.step == 2
    with pytest.raises(UserError, match=r"DDIMScheduler stopped after step 2 of 4: no generator here owns t = 499\."):
        clean_latents(stopped)
    assert torch.equal(clean_latents(walk(state).trajectory), state.trajectory.latents_bchw)


def test_a_half_without_a_step_is_refused_where_both_are_there(pair, cascade, shared_pair) -> None:
    with pytest.raises(UserError, match=r"= 1 leaves no step to the texture generator.* each half one is 2\."):
        draw(pair, num_inference_steps=1)
    with pytest.raises(UserError, match="num_inference_steps = 1 leaves no step to the texture generator"):
        CoopPipeline(pair)("fox", num_inference_steps=1)
    half = PanGuDrawPipeline(**{**pair.components, "texture": None}, contracts=dict(pair.config.contracts))
    start = half.start(
        half.encode_prompt(["fox"]), height=96, width=96, num_inference_steps=1, guidance_scale=1.0, generators=seeds(1)
    )
    assert half.advance(start, "structure").finished, "another process may hold texture"
    assert draw(cascade, ["fox"], num_inference_steps=1).isfinite().all(), "each stage of a cascade owns its one step"


@pytest.mark.long
def test_60_61_and_170_steps_draw_what_200_draw(pair) -> None:
    """Of one network on both sides, so that nothing but the sampler's error is left; at 61 the walk used to have no end."""
    pair.register_modules(texture=pair.structure)
    options = {"guidance_scale": 1.0, "output_type": "latent"}
    drawn = {
        steps: draw(pair, ["fox"], seeds(1), num_inference_steps=steps, **options) for steps in (20, 60, 61, 170, 200)
    }
    apart = {steps: float((latents - drawn[200]).abs().mean()) for steps, latents in drawn.items()}
    assert apart[170] < apart[61] < apart[20] and apart[170] < apart[60] < apart[20], apart


def test_nothing_that_is_not_finite_becomes_an_image(pair, cascade, shared_pair) -> None:
    bad = torch.zeros(2, 16, 12, 12)
    bad[1, 0, 0, 0] = float("nan")
    for output_type in ("pil", "np", "pt"):
        with pytest.raises(NotFinite, match="The sampler ended in latents that are not finite"):
            pair.decode(bad, output_type)
    with pytest.raises(NotFinite, match="latents that are not finite"):
        draw(pair, latents=bad, output_type="pil")
    cascade.denoiser = lambda *_: lambda noisy, *__: noisy * float("inf")
    with pytest.raises(NotFinite, match="latents that are not finite"):
        draw(cascade, ["fox"])

    def broken(noisy: torch.Tensor, timestep: torch.Tensor, tensors: Any, condition: Any) -> Question:
        return Question(Network("broken", None, None, lambda: lambda noisy, *_: noisy * float("nan")), (noisy,))

    for main in (small.stable_diffusion(), pair):
        coop = CoopPipeline(main)
        coop.models.main.question = broken
        with pytest.raises(NotFinite, match="latents that are not finite"):
            draw(coop, ["fox"])
    small_vae = small.vae()
    with torch.no_grad():
        small_vae.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(NotFinite, match="The autoencoder makes pixels that are not finite of finite latents"):
        decode_latents(small_vae, torch.zeros(1, 4, 8, 8))


def test_a_pair_of_epsilon_under_zero_terminal_snr_is_refused_when_it_is_put_together(pair) -> None:
    changed = {role: json.loads(json.dumps(values)) for role, values in pair.config.contracts.items()}
    for values in changed.values():
        values["schedule"] |= {"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}
    scheduler = diffusers.DDIMScheduler(**changed["texture"]["schedule"], clip_sample=False)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr"):
        PanGuDrawPipeline(**{**pair.components, "scheduler": scheduler}, contracts=changed)
    pipe = small.stable_diffusion()
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=True)
    with pytest.raises(UserError, match="last noise level is pure noise, where predicted epsilon says nothing"):
        CoopPipeline(pipe)


def test_a_saved_pair_names_diffusers_own_scheduler(pair, tmp_path) -> None:
    draw(pair, num_inference_steps=7)
    pair.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert type(diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")) is diffusers.DDIMScheduler
