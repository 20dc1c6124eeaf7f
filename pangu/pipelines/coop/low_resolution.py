"""The low-resolution stage of a hand-off, set up from the request of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pangu.pipelines.coop import build
from pangu.pipelines.coop.bridge import Bridge, Side, bridge_between
from pangu.pipelines.coop.coop_inputs import CoopInputs
from pangu.pipelines.coop.handoff import first_call, last_call
from pangu.pipelines.coop.partner import Partner
from pangu.sampling.levels import Sampler, sample_level
from pangu.sampling.sampling_state import SamplingState


@dataclass(frozen=True)
class LowStage:
    """first: the main's first call. until: the low-resolution call at which everybody predicts once more and stops."""

    state: SamplingState
    until: int
    bridge: Bridge
    first: int


def low_stage(
    high: build.Models,
    request: CoopInputs,
    sampler: Sampler,
    low: build.Models,
    partners: Sequence[Partner],
    batched_guidance: bool,
) -> LowStage:
    """The stage of the models `low` before those of `high` go on with `sampler`.

    Raises:
        UserError: sizes that no way leads between, or a T_low that leaves nothing to one of them.
    """
    asked, adapter = request.handoff, low.main
    assert asked is not None
    height, width = asked.height or adapter.default_size[0], asked.width or adapter.default_size[1]
    side = Side(adapter, height, width, low.main_vae)
    bridge = bridge_between(build.main_side(high, request), side, asked.upsample)
    first = first_call(sampler, asked.t_low)
    own = request.of_partner(asked, adapter.name, height, width)
    steps = asked.num_inference_steps or request.num_inference_steps
    low_request = replace(
        request,
        prompts=own.prompts,
        negatives=own.negatives,
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=own.guidance_scale,
        partners=tuple(partners),
        handoff=None,
        image=own.image,
        conditioning_scale=own.conditioning_scale,
        extra=own.extra,
        batched_guidance=batched_guidance,
    )
    low_sampler = adapter.sampler(steps, height, width)
    state = build.cooperation(low, low_request, low_sampler, 0, None)
    return LowStage(state, last_call(low_sampler, sample_level(sampler.scheduler, first).log_snr), bridge, first)
