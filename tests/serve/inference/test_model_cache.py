"""A cache never drops a release that is in use, and never holds more than it has room for."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.serve.inference.messages import Release
from pangu.serve.inference.model_cache import ModelCache


def numbered(number: int) -> Release:
    return Release(
        pair_version=number, structure_version=1, texture_version=1, sha256=str(number), created=0, folder=Path("/")
    )


def key(release: Release) -> str:
    return release.sha256


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_every_request_gets_its_own_release_and_the_room_is_kept(requests: list[tuple[int, int]]) -> None:
    alive: set[int] = set()

    class Part:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)

        def __del__(self) -> None:
            alive.discard(self.number)

    async def request(cache: ModelCache[Release, Part], number: int, turns: int) -> None:
        async with cache.acquire(numbered(number)) as part:
            for _ in range(turns + 1):
                assert part.number == number
                assert number in alive
                assert len(cache.keys) <= 2
                await asyncio.sleep(0)

    async def everyone() -> None:
        cache = ModelCache(lambda release: Part(release.pair_version), key)
        await asyncio.wait_for(asyncio.gather(*(request(cache, *each) for each in requests)), 10)

    asyncio.run(everyone())


def test_a_release_that_can_not_be_loaded_fails_its_requests_and_leaves_the_others() -> None:
    def load(release: Release) -> int:
        if release.pair_version == 2:
            raise ValueError("damaged")
        return release.pair_version

    async def scenario() -> None:
        cache = ModelCache(load, key)
        async with cache.acquire(numbered(1)):
            with pytest.raises(ValueError, match="damaged"):
                async with cache.acquire(numbered(2)):
                    raise AssertionError("unreachable")
        assert cache.keys == ["1"]

    asyncio.run(scenario())


def test_what_is_no_longer_wanted_is_freed_as_soon_as_it_is_idle_and_not_before() -> None:
    async def scenario() -> None:
        cache = ModelCache(lambda release: release.pair_version, key)
        cache.retain([numbered(1), numbered(2), numbered(3)])
        for number in (1, 2, 3):
            async with cache.acquire(numbered(number)):
                pass
        assert sorted(cache.ready) == ["1", "2", "3"]
        async with cache.acquire(numbered(1)):
            cache.retain([numbered(3)])
            assert sorted(cache.keys) == ["1", "3"]
        assert cache.keys == ["3"]

    asyncio.run(scenario())
