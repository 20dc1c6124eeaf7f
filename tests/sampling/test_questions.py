"""What a step asks of networks: what can share a call, what is set up when, and that a pair is a cooperation of one."""

import gc
import weakref

import torch
from diffusers import DDIMScheduler

from pangu.sampling.call_schedule import PartnerSchedule, call_schedule
from pangu.sampling.condition import Condition, text_condition
from pangu.sampling.levels import trained_levels
from pangu.sampling.question import DenoiserModel, Network, Networks, Question, ask
from pangu.sampling.sampling_state import PartnerState, SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory
from tests import subtests

checks = subtests.Checks()


def network(owner: str, setting: float = 1.0, key: int = 0, said: list[str] | None = None) -> Network:
    def set_up():
        if said is not None:
            said.append(f"{owner} {setting} {key}")
        return lambda noisy, *_: noisy

    return Network(owner, setting, key, set_up)


@checks
def a_network_is_set_up_again_only_after_another_setting_of_its_weights() -> None:
    said: list[str] = []
    networks = Networks()
    for setting, key in ((1.0, 0), (1.0, 1), (1.0, 0), (0.5, 0), (1.0, 0), (1.0, 0)):
        networks.of(network("a", setting, key, said))
        networks.of(network("b", 1.0, 0, said))
    assert said == ["a 1.0 0", "b 1.0 0", "a 1.0 1", "a 0.5 0", "a 1.0 0"]


@checks
def networks_of_few_owners_are_held_and_those_that_nobody_asks_let_go_of() -> None:
    class Weights:
        pass

    networks, gone = Networks(), []
    for number in range(3 * Networks.MOST_OWNERS):
        weights = Weights()
        gone.append(weakref.ref(weights))
        networks.of(Network(number, None, None, lambda weights=weights: lambda noisy: weights))
    del weights
    gc.collect()
    assert sum(each() is not None for each in gone) == Networks.MOST_OWNERS


@checks
def questions_of_one_network_and_of_equal_shapes_are_of_one_kind() -> None:
    latents, text = torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 3)
    asked = Question(network("a"), (latents, text))
    assert asked.kind == Question(network("a"), (latents[:1], text[:1])).kind
    for other in (
        Question(network("b"), (latents, text)),
        Question(network("a", 0.5), (latents, text)),
        Question(network("a"), (latents[..., :4], text)),
        Question(network("a"), (latents, text.half())),
    ):
        assert asked.kind != other.kind


@subtests.parametrize("batched", [True, False])
def test_timesteps_are_told_in_float32_whatever_the_weights(batched: bool) -> None:
    text = torch.zeros(2, 1, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16)
    condition = text_condition(*text, *text, guidance_scale=2.0, batched=batched)
    asking = ask(DenoiserModel(lambda noisy, *_: noisy), torch.zeros(2, 3, 4, 4), torch.tensor(731), condition)
    question = next(asking)
    assert question.inputs[1].dtype == torch.float32 and question.inputs[1].tolist() == [731.0] * question.rows
    assert question.rows == (4 if batched else 2)


class Shared:
    """No way at all: both have one latent space."""

    shared = True

    def to_main(self, clean: torch.Tensor) -> torch.Tensor:
        return clean

    to_partner = to_main

    def check(self) -> None:
        pass


@subtests.parametrize("boundary", [300, 700])
def test_a_pair_is_the_cooperation_of_two_models_with_weight_one_on_their_own_intervals(boundary: int) -> None:
    """One walk whose network changes with the timestep, and the same by a partner that takes everything below the boundary."""

    def begun() -> Trajectory:
        scheduler = DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(10)
        text = torch.zeros(1, 1, 1), torch.zeros(1, 1)
        latents = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        return Trajectory(latents, scheduler.timesteps, 0, scheduler, text_condition(*text, *text))

    def structure(noisy, *_):
        return 0.3 * noisy

    def texture(noisy, *_):
        return 0.3 * noisy.roll(1, -1)

    def expert(noisy, timestep, *rest):
        return (structure if float(timestep[0]) >= boundary else texture)(noisy, timestep, *rest)

    pair = walk(SamplingState(DenoiserModel(expert), begun())).trajectory.latents_bchw

    class Partner(DenoiserModel):
        levels = trained_levels(DDIMScheduler())

    trajectory = begun()
    weights = tuple(float(t < boundary) for t in trajectory.timesteps)
    calls = call_schedule(range(10), [PartnerSchedule(weights, masked=False, bridged=False, every=1)])
    partner = PartnerState(Partner(texture), trajectory.condition, Shared())
    both = walk(SamplingState(DenoiserModel(structure), trajectory, [partner], calls)).trajectory.latents_bchw
    torch.testing.assert_close(both, pair, rtol=1e-4, atol=1e-4)


@checks
def a_condition_without_negative_prompts_is_never_guided() -> None:
    tokens = torch.zeros(1, 2, 3)
    assert not Condition({"tokens": tokens}, guidance_scale=7.0).guided
    assert len(Condition({"tokens": tokens}, {"tokens": tokens}, guidance_scale=7.0).parts) == 2
    assert len(Condition({"tokens": tokens}, {"tokens": tokens}, guidance_scale=1.0).parts) == 1


test_questions = checks.test()
