"""Drawing ahead changes when batches are drawn, not which; and a failure reaches whoever waits."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.train.prefetch import prefetched
from tests import subtests

checks = subtests.Checks()


@checks
@given(first=st.integers(0, 5), count=st.integers(0, 20), ahead=st.integers(0, 6))
def every_step_comes_once_and_in_order(first: int, count: int, ahead: int) -> None:
    steps = range(first, first + count)
    assert list(prefetched(lambda step: step * step, steps, ahead)) == [step * step for step in steps]


@checks
def no_more_than_so_many_are_drawn_ahead() -> None:
    drawn: list[int] = []
    batches = prefetched(lambda step: drawn.append(step) or step, range(100), 3)
    next(batches)
    batches.close()
    assert len(drawn) <= 5


@checks
def a_failure_while_drawing_ends_the_wait_for_it() -> None:
    def draw(step: int) -> int:
        if step == 2:
            raise OSError("the disk is gone")
        return step

    batches = prefetched(draw, range(10), 2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


@checks
def the_thread_ends_with_the_batches() -> None:
    batches = prefetched(lambda step: step, range(1000), 2)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


test_prefetch = checks.test()
