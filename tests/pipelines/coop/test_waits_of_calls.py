"""A call of everybody looks at nothing on the device, bridges included; what went wrong on the way is said at the end."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._pytree import tree_map

from pangu.errors import NotFinite
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.coop import Partner
from pangu.pipelines.coop.model_adapter import ModelAdapter
from pangu.recipes import tiny
from pangu.sampling.condition import Condition
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.coop.coops import draw, together

MODELS = {
    "stable_diffusion": small.stable_diffusion,
    "controlled": small.controlled,
    "sdxl": small.sdxl,
    "stable_diffusion_3": small.stable_diffusion_3,
    "flux": small.flux,
    "deepfloyd": small.deepfloyd,
    "pangu_draw": lambda seed=0: untrained_pair(tiny(), seed),
}


def elsewhere(value: Any) -> Any:
    """The same on the device `meta`, from which nothing can be read."""
    if isinstance(value, Condition):
        return replace(value.to("meta"), facts=tree_map(elsewhere, dict(value.facts)))
    return value.to("meta") if hasattr(value, "to") else value


def moved(state: SamplingState) -> SamplingState:
    adapters: list[Any] = [state.model, *(guest.model for guest in state.partners)]
    for adapter in adapters:
        for part in adapter.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.to("meta")
    told = elsewhere(state.trajectory.condition)
    state.trajectory = replace(state.trajectory.to("meta"), condition=told)
    for guest in state.partners:
        guest.condition = elsewhere(guest.condition)
        guest.trajectory = guest.trajectory and guest.trajectory.to("meta")
        # Where the crossings are read is the end of a run.
        object.__setattr__(guest.bridge, "check", lambda: None)
    return state


def begun(name: str, partner: Any, **arguments: Any) -> SamplingState:
    size = 96 if name == "pangu_draw" else 16
    call = {"height": size, "width": size, "num_inference_steps": 4, "generator": small.seeds(1)} | arguments
    coop = together(MODELS[name](), [partner])
    return coop.begin("a fox", **call)


@pytest.mark.long
@subtests.parametrize("name", MODELS)
def test_no_call_looks_at_what_is_on_the_device(name: str) -> None:
    guest = MODELS["stable_diffusion" if name == "controlled" else name](seed=1)
    main = {"image": Image.new("RGB", (16, 16), "white")} if name == "controlled" else {}
    with torch.no_grad():
        state = walk(moved(begun(name, Partner(guest, strength=0.5), **main)))
    assert state.finished and state.trajectory.latents_bchw.device.type == "meta"


@subtests.parametrize("name", MODELS)
def test_timesteps_are_on_the_cpu_wherever_the_model_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = together(MODELS[name]()).models.main
    monkeypatch.setattr(ModelAdapter, "device", torch.device("meta"))
    scheduler = adapter.sampler(4, *adapter.default_size).scheduler
    assert {each.device.type for each in vars(scheduler).values() if isinstance(each, torch.Tensor)} == {"cpu"}


def test_what_crossed_and_was_not_finite_ends_the_call_in_a_sentence() -> None:
    partner = small.stable_diffusion(seed=1)
    with torch.no_grad():
        partner.vae.decoder.conv_out.bias.fill_(float("inf"))
    coop = together(small.stable_diffusion(), [Partner(partner, strength=0.5)])
    with pytest.raises(NotFinite, match="not finite of finite latents"):
        draw(coop)
