"""What `plan()` says is what happens: calls are counted by hooks on the models themselves."""

from collections import Counter

import pytest
import torch
from diffusers import HeunDiscreteScheduler

from pangu.pipelines.coop import Handoff, Partner
from pangu.sampling.call_schedule import Action, PartnerSchedule, call_schedule
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.coop.coops import draw, together

checks = subtests.Checks()


def counted(coop, **arguments) -> dict[str, dict[str, int]]:
    """Calls of each model during one run."""
    seen: dict[str, Counter[str]] = {"network_calls": Counter(), "decodes": Counter(), "encodes": Counter()}
    undo = []
    adapters = [*coop.adapters, *(coop.low.adapters if coop.low else [])]
    for adapter in adapters:
        name = adapter.name
        hook = lambda *_, name=name: seen["network_calls"].update([name])  # noqa: E731
        undo.append(adapter.network.register_forward_pre_hook(hook).remove)
        if adapter.vae is None:
            continue
        for what in ("decode", "encode"):
            inner = getattr(adapter.vae, what)

            def wrapped(*args, inner=inner, what=what, name=name, **kwargs):
                seen[f"{what}s"].update([name])
                return inner(*args, **kwargs)

            setattr(adapter.vae, what, wrapped)
            undo.append(lambda vae=adapter.vae, what=what: delattr(vae, what))
    draw(coop, **arguments)
    for each in undo:
        each()
    return {name: dict(counter) for name, counter in seen.items()}


def cases():
    other_vae = small.vae(9)
    yield "bridged", together(small.stable_diffusion(), Partner(small.stable_diffusion(1, vae=other_vae)))
    yield "shared", together(small.stable_diffusion(), Partner(small.stable_diffusion(1, vae=small.vae(0))))
    yield "every third step", together(small.stable_diffusion(), Partner(small.sdxl(), every=3))
    yield "two calls of guidance", together(small.stable_diffusion(), Partner(small.sdxl()), batched_guidance=False)
    yield (
        "full strength in the middle",
        together(small.stable_diffusion(), Partner(small.sdxl(), strength=1.0, start=0.25, stop=0.75)),
    )
    mask = torch.linspace(0, 1, 256).view(16, 16)
    yield (
        "pixels and a mask",
        together(
            small.stable_diffusion(),
            [Partner(small.ddpm(), strength=1.0, mask=mask / 2), Partner(small.sdxl(), strength=0.3, stop=0.4)],
        ),
    )
    heun = small.stable_diffusion()
    heun.scheduler = HeunDiscreteScheduler.from_config(heun.scheduler.config)
    yield "second order", together(heun, Partner(small.sdxl(), every=2, start=0.2))
    yield "learned variance", together(small.deepfloyd(), Partner(small.sdxl(), strength=1.0))
    yield (
        "hand-off",
        together(
            small.stable_diffusion(),
            Partner(small.sdxl(2), name="helper"),
            Handoff(small.stable_diffusion(1, vae=other_vae), height=8, width=8, num_inference_steps=5),
        ),
    )


@subtests.parametrize(("name", "coop"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_the_number_of_calls_is_the_planned_one(name, coop) -> None:
    arguments = {"height": 16, "width": 16, "num_inference_steps": 6, "output_type": "pt"}
    plan = coop.plan("a fox", **arguments, measure=False)
    found = counted(coop, **arguments)
    assert found["network_calls"] == dict(plan.network_calls)
    assert found["decodes"] == dict(plan.decodes)
    assert found["encodes"] == dict(plan.encodes)


@checks
def a_plan_says_how_long_and_reads_well() -> None:
    coop = together(small.stable_diffusion(), Partner(small.sdxl(), name="old ControlNet"))
    plan = coop.plan("a fox", height=16, width=16, num_inference_steps=3)
    assert plan.seconds is not None and 0 < plan.seconds < 60
    assert "old ControlNet: 3 network calls" in str(plan)
    twice = coop.plan("a fox", height=16, width=16, num_inference_steps=3, measure=False)
    assert twice.network_calls == plan.network_calls and twice.seconds is None


@checks
def cost_controls_save_what_they_promise() -> None:
    main, other = small.stable_diffusion(), small.sdxl()
    plans = [
        together(main, Partner(other, **change)).plan(height=16, width=16, num_inference_steps=8, measure=False)
        for change in ({}, {"every": 2}, {"stop": 0.5})
    ]
    assert [plan.network_calls["partner"] for plan in plans] == [8, 4, 4]
    assert plans[1].decodes["partner"] == 4 and plans[1].network_calls["main"] == 8


@checks
def a_partner_that_is_off_forgets_and_enters_again() -> None:
    calls = call_schedule([0, 1, 2, 3, 4], [PartnerSchedule((0.5, 0.0, 0.5, 0.5, 0.0), False, True, 1)])
    partner_calls = [call.partner_calls[0] for call in calls]
    assert [own_call.action for own_call in partner_calls] == [
        Action.ASK,
        Action.OFF,
        Action.ASK,
        Action.ASK,
        Action.OFF,
    ]
    assert [own_call.enters for own_call in partner_calls] == [False, False, True, False, False]
    assert [own_call.returns for own_call in partner_calls] == [False, False, True, False, False]
    assert all(call.main for call in calls)


@checks
def nobody_is_asked_whose_answer_is_not_used() -> None:
    calls = call_schedule([0, 1, 2], [PartnerSchedule((1.0, 1.0, 0.0), False, False, 1)])
    assert [call.main for call in calls] == [False, False, True]
    masked = call_schedule([0, 1, 2], [PartnerSchedule((1.0, 1.0, 0.0), True, False, 1)])
    assert all(call.main for call in masked)


test_call_counts = checks.test()
