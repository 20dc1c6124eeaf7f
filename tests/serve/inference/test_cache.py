"""The structure cache is bounded in bytes, forgets the least recently used, and never hands out what another may change."""

from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.diffusion.trajectory import Conditioning, Trajectory
from pangu.models.schedulers import sampler
from pangu.recipes import tiny
from pangu.serve.inference.structure_cache import StructureCache, bytes_of, bytes_of_text, keep, text_cache
from tests import subtests


def trajectory(size: int, value: float = 0.0) -> Trajectory:
    scheduler = sampler(tiny().schedule)
    scheduler.set_timesteps(4)
    said = torch.zeros(1, 2, 3)
    latents = torch.full((1, 1, size, size), value)
    condition = Conditioning(said, said[:, 0], said, said[:, 0])
    sources = (torch.Generator().manual_seed(1),)
    return Trajectory(latents, scheduler.timesteps, 2, scheduler, condition, 3.0, {"structure": 0}, sources)


SMALLEST = bytes_of(trajectory(1))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 40)), max_size=30))
def test_it_is_an_lru_bounded_in_bytes(actions: list[tuple[int, bool, int]]) -> None:
    most = 3 * SMALLEST + 2000
    cache, model = StructureCache(most), OrderedDict()
    for key, keeps, size in actions:
        if keeps:
            cache.keep(key, trajectory(size))
            if bytes_of(trajectory(size)) <= most:
                model.pop(key, None)
                model[key] = size
                while sum(bytes_of(trajectory(kept)) for kept in model.values()) > most:
                    model.popitem(last=False)
        else:
            found = cache.find(key)
            assert (found is None) == (key not in model)
            if found is not None:
                model.move_to_end(key)
                assert found.latents_bchw.shape[-1] == model[key]
        assert len(cache) == len(model)
        assert cache.used_bytes <= most


def test_what_is_found_can_be_walked_on_without_changing_what_is_kept() -> None:
    cache = StructureCache(10**6)
    original = trajectory(3)
    cache.keep("key", original)
    for _ in range(2):
        found = cache.find("key")
        assert found is not None
        assert found.generators is not None
        drawn = torch.randn(3, generator=found.generators[0])
        assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(1)))
        found.scheduler.num_inference_steps = 99
    assert original.scheduler.num_inference_steps == 4


def test_no_bytes_hold_nothing() -> None:
    cache = StructureCache(0)
    cache.keep("key", trajectory(1))
    assert cache.find("key") is None


@subtests.parametrize("size", [1, 16])
def test_text_is_not_kept(size: int) -> None:
    cache = StructureCache(10**6)
    cache.keep("key", trajectory(size))
    found = cache.find("key")
    assert found is not None
    assert found.conditioning.tokens_bnc.numel() == 0


def test_the_text_of_a_prompt_is_kept_and_counted() -> None:
    said = trajectory(1).conditioning
    assert bytes_of_text(said) == 4 * (6 + 3 + 6 + 3)
    cache = text_cache(bytes_of_text(said))
    keep(cache, "a fox", said)
    assert cache.get("a fox") is said
    keep(cache, "two foxes", said.repeat(2))
    assert cache.get("two foxes") is None, "what is larger than the cache takes nobody's place"
    keep(cache, "a lemon", said)
    assert cache.get("a fox") is None
