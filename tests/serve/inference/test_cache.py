"""The structure cache is bounded in bytes, forgets the least recently used, and never hands out what another may change."""

from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.models.schedulers import sampler
from pangu.recipes import tiny
from pangu.sampling.condition import Condition, text_condition
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.trajectory import Trajectory
from pangu.serve.inference.structure_cache import StructureCache, bytes_of, bytes_of_text, text_cache


def standing(size: int, value: float = 0.0) -> SamplingState:
    """A state at the boundary, of `size` x `size` latents."""
    scheduler = sampler(tiny().schedule)
    scheduler.set_timesteps(4)
    latents = torch.full((1, 1, size, size), value)
    sources = (torch.Generator().manual_seed(1),)
    return SamplingState(None, Trajectory(latents, scheduler.timesteps, 2, scheduler, said(), sources))


def said() -> Condition:
    text = torch.zeros(1, 2, 3)
    return text_condition(text, text[:, 0], text, text[:, 0])


def size_of(size: int) -> int:
    return bytes_of(standing(size).saved())


SMALLEST = size_of(1)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 40)), max_size=30))
def test_it_is_an_lru_bounded_in_bytes(actions: list[tuple[int, bool, int]]) -> None:
    most = 3 * SMALLEST + 2000
    cache, model = StructureCache(most), OrderedDict()
    for key, keeps, size in actions:
        if keeps:
            cache.keep(key, standing(size))
            if size_of(size) <= most:
                model.pop(key, None)
                model[key] = size
                while sum(size_of(kept) for kept in model.values()) > most:
                    model.popitem(last=False)
        else:
            state = standing(50)
            found = cache.restore(key, state)
            assert found == (key in model)
            assert state.trajectory.latents_bchw.shape[-1] == model.get(key, 50)
            if found:
                model.move_to_end(key)
        assert len(cache) == len(model)
        assert cache.used_bytes <= most


def test_what_is_found_can_be_walked_on_without_changing_what_is_kept() -> None:
    cache = StructureCache(10**6)
    original = standing(3)
    cache.keep("key", original)
    for _ in range(2):
        state = standing(1)
        assert cache.restore("key", state)
        sources = state.trajectory.generators
        assert sources is not None
        drawn = torch.randn(3, generator=sources[0])
        assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(1)))
        state.trajectory.scheduler.num_inference_steps = 99
    assert original.trajectory.scheduler.num_inference_steps == 4


def test_no_bytes_hold_nothing() -> None:
    cache = StructureCache(0)
    cache.keep("key", standing(1))
    assert not cache.restore("key", standing(1))


def test_text_is_not_kept_and_that_of_the_request_stays() -> None:
    cache = StructureCache(10**6)
    cache.keep("key", standing(16))
    assert cache._kept["key"].trajectory.condition == Condition()
    state = standing(1)
    asked = state.trajectory.condition
    assert cache.restore("key", state) and state.trajectory.condition is asked


def test_the_text_of_a_prompt_is_kept_and_counted() -> None:
    asked = said()
    assert bytes_of_text(asked) == 4 * (6 + 3 + 6 + 3)
    cache = text_cache(bytes_of_text(asked))
    cache.keep("a fox", asked)
    assert cache.get("a fox") is asked
    cache.keep("two foxes", asked.repeat(2))
    assert cache.get("two foxes") is None, "what is larger than the cache takes nobody's place"
    cache.keep("a lemon", asked)
    assert cache.get("a fox") is None
