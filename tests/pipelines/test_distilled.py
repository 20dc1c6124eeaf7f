"""Pairs with distilled halves: each student walks the timesteps it was made for, whatever is asked."""

from typing import Any

import pytest
import torch

from pangu.config import NoiseSchedule
from pangu.contract import GeneratorContract
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.segments import CLEAN
from pangu.errors import UserError
from pangu.models.schedulers import named_sampler
from tests import subtests
from tests.pipelines.drawing import draw, seeds
from tests.pipelines.exact import (
    EPSILON,
    FLOW,
    VELOCITY,
    Ideal,
    contracts_of,
    flowed,
    gaussian,
    joined,
    level_of,
    segments,
)

KINDS = [EPSILON, VELOCITY, FLOW]


def students(pair: Any, schedule: NoiseSchedule, *distilled: str, boundary: int = 500, steps: int = 2) -> Any:
    """A pair of exact networks, of which the `distilled` ones are students of `steps` steps."""
    contracts = contracts_of(pair, (schedule, boundary, 1000), (schedule, 0, boundary))
    networks = []
    for role, contract in contracts.items():
        found = GeneratorContract.model_validate(contract)
        if role not in distilled:
            networks.append(gaussian(schedule, pair.structure))
            continue
        like, cut = pair.structure.config, segments(found.interval, steps)
        networks.append(Ideal(schedule.model_dump(), like.out_channels, like.cross_attention_dim, cut))
        starts = [start for start, _ in cut]
        contracts[role] = contract | {"distilled": {"timesteps": starts, "guidance_scale": 3.0}}
    return joined(pair, networks, contracts)


def latents(pipe: Any, steps: int, **options: Any) -> torch.Tensor:
    return draw(pipe, ["fox"], seeds(1), output_type="latent", num_inference_steps=steps, guidance_scale=4.0, **options)


@subtests.parametrize("schedule", KINDS, ids=["epsilon", "v", "flow"])
def test_two_and_two_steps_of_ideal_students_end_where_the_flow_ends(pair: Any, schedule: NoiseSchedule) -> None:
    whole = students(pair, schedule, "structure", "texture")
    noise = torch.randn(1, whole.structure.config.out_channels, 12, 12, generator=torch.Generator().manual_seed(1))
    first = TimeInterval(500, 1000, schedule.is_flow)
    level = level_of(schedule, segments(first, 1)[0][0])
    wanted = flowed(noise, level, level_of(schedule, CLEAN))
    for asked in (1, 4, 20):
        whole.structure.asked.clear(), whole.texture.asked.clear()
        torch.testing.assert_close(latents(whole, asked, latents=noise), wanted, rtol=1e-3, atol=1e-3)
        # One row a step: guidance is built in.
        assert whole.structure.asked == [start for start, _ in segments(first, 2)]
        assert whole.texture.asked == [start for start, _ in segments(TimeInterval(0, 500), 2)]


@subtests.parametrize("schedule", KINDS, ids=["epsilon", "v", "flow"])
@subtests.parametrize("role", ["structure", "texture"])
def test_the_other_half_of_a_mixed_pair_keeps_its_own_steps_and_guidance(
    pair: Any, schedule: NoiseSchedule, role: str
) -> None:
    mixed, plain = students(pair, schedule, role), students(pair, schedule)
    other = "texture" if role == "structure" else "structure"
    found, usual = latents(mixed, 40), latents(plain, 40)
    assert float((found - usual).abs().mean()) < 0.03
    assert mixed.generator(other).asked == plain.generator(other).asked
    assert len(mixed.generator(role).asked) == 2


def test_a_half_that_was_not_distilled_needs_a_step(pair: Any) -> None:
    mixed = students(pair, EPSILON, "structure")
    assert latents(mixed, 2).isfinite().all()
    with pytest.raises(UserError, match="num_inference_steps = 1 leaves no step to the texture generator"):
        latents(mixed, 1)


def test_a_students_steps_are_those_of_its_own_sampler(pair: Any) -> None:
    whole = students(pair, EPSILON, "structure", "texture")
    whole.scheduler = named_sampler("dpmpp_2m", whole.scheduler)
    with pytest.raises(
        UserError, match="structure and the texture generator was distilled for the steps of DDIMScheduler"
    ):
        latents(whole, 20)


def test_a_boundary_anywhere_leaves_each_student_its_own_steps(pair: Any) -> None:
    uneven = students(pair, VELOCITY, "structure", "texture", boundary=700, steps=3)
    latents(uneven, 8)
    assert uneven.structure.asked == [999, 899, 799]
    assert uneven.texture.asked == [699, 466, 232]
