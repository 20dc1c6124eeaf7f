"""The bounded cache holds what cachetools' would: that of the library is not in the core."""

from cachetools import Cache, LRUCache
from hypothesis import given
from hypothesis import strategies as st

from pangu.bounded_cache import BoundedCache

KEYS = st.sampled_from("abcde")
STEPS = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 7)), max_size=40)
"""(key, size of what is kept under it; None: it is looked up)."""


@given(STEPS, st.integers(0, 12))
def test_it_holds_what_the_library_would_and_never_more_than_it_may(
    steps: list[tuple[str, int | None]], most: int
) -> None:
    ours: BoundedCache[str, int] = BoundedCache(most, lambda size: size)
    theirs: LRUCache[str, int] = LRUCache(most, lambda size: size)
    for key, size in steps:
        if size is None:
            assert ours.get(key) == theirs.get(key)
        else:
            ours.keep(key, size)
            if size <= most:
                theirs.pop(key, None)  # else it makes room as if both were held
                theirs[key] = size
        # dict(theirs) would use every value, and with that change which one makes way.
        held = {key: Cache.__getitem__(theirs, key) for key in theirs}
        assert {key: ours[key] for key in "abcde" if key in ours} == held
        assert ours.used == theirs.currsize <= most and len(ours) == len(theirs)
    ours.drop_where(lambda size: size > 2)
    assert ours.used == sum(size for size in theirs.values() if size <= 2)
