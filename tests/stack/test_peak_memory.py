"""The memory that the demo says it needed."""

import time

from pangu.demo.peak_memory import SECONDS_BETWEEN_SAMPLES, PeakMemory

MB = 2**20
GROWN = 96


def test_it_is_that_of_the_moment_at_which_most_was_held() -> None:
    with PeakMemory("nobody's stack") as before:
        time.sleep(1.5 * SECONDS_BETWEEN_SAMPLES)
    with PeakMemory("nobody's stack") as memory:
        time.sleep(1.5 * SECONDS_BETWEEN_SAMPLES)
        held = bytearray(GROWN * MB)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(1.5 * SECONDS_BETWEEN_SAMPLES)
        del held
        time.sleep(1.5 * SECONDS_BETWEEN_SAMPLES)
    assert abs(memory.peak_mb - before.peak_mb - GROWN) < GROWN / 8
