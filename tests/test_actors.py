"""Stages over actors: what each asks a cluster for, the same result whoever computes, and workers that die."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pangu.actors import Placement, Spread, crew, placed
from pangu.data.encode.stage import encode
from pangu.recipes import tiny
from pangu.storage import Home, read_json
from tests import subtests
from tests.small_dataset import NAME, small_dataset
from tests.spread_on_ray import digests

checks = subtests.Checks()

ROOT = Path(__file__).parents[1]
WHOLE, HALF = Spread(on_ray=True), Spread(on_ray=True, gpus=0.5)


@subtests.parametrize(
    ("spread", "gpus_of_nodes", "joins", "expected"),
    [
        (WHOLE, [0, 8, 8], False, Placement(16, 1.0, False)),
        (HALF, [1], False, Placement(2, 0.5, False)),
        (Spread(on_ray=True, gpus=0.1), [1], False, Placement(10, 0.1, False)),
        (Spread(on_ray=True, gpus=2.0), [3, 3], False, Placement(2, 2.0, False)),  # no worker spans two nodes
        (Spread(on_ray=True, workers=3), [8], False, Placement(3, 1.0, False)),
        (WHOLE, [4], True, Placement(3, 1.0, True)),  # the fourth is that of this process
        (WHOLE, [1], True, Placement(0, 1.0, True)),
        (WHOLE, [0, 0], False, Placement(0, 0.0, True)),  # without any it computes itself
        (Spread(on_ray=True, workers=3), [0], False, Placement(3, 0.0, False)),
        (Spread(on_ray=True, workers=3), [0], True, Placement(2, 0.0, True)),
    ],
)
def test_workers_fill_the_gpus_of_the_cluster(
    spread: Spread, gpus_of_nodes: list[float], joins: bool, expected: Placement
) -> None:
    assert placed("encode", spread, gpus_of_nodes, joins) == expected


def test_without_gpus_it_computes_on_cores_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        placed("encode", WHOLE, [0], False)
    assert [record.getMessage() for record in caplog.records] == [
        "No node of this cluster has a GPU, so encode computes on CPU cores."
    ]


@checks
def a_share_of_several_gpus_is_refused() -> None:
    with pytest.raises(ValidationError, match="a share of one GPU, or a whole number of them"):
        Spread(gpus=1.5)


@checks
def alone_items_are_read_ahead_of_what_is_computed_and_keep_their_order() -> None:
    read: list[int] = []

    def reading(item: int) -> int:
        read.append(item)
        return -item

    with crew("test", lambda: 10, Spread()) as workers:
        found = workers.map(lambda state, fed: state + fed, range(4), reading)
        assert next(found) == (0, 10)
        assert [*found] == [(1, 9), (2, 8), (3, 7)]
    assert read == [0, 1, 2, 3]


@checks
def what_reading_raises_ends_the_stage_as_it_is() -> None:
    def reading(item: int) -> int:
        raise ValueError("not an image")

    with crew("test", str, Spread()) as workers, pytest.raises(ValueError, match="not an image"):
        list(workers.map(lambda state, fed: fed, range(4), reading))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("home"))
    small_dataset(made, 150)
    return made


@pytest.fixture(scope="module")
def seen(home: Home) -> dict[str, Any]:
    """What `tests.spread_on_ray` saw, in a process and on a Ray of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment = kept | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "tests.spread_on_ray", str(home.root)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = read_json(home.root / "seen.json")
    return found


@pytest.mark.long
@subtests.parametrize(("name", "workers", "share"), [("whole", 2, 1.0), ("shares", 4, 0.5)])
def test_actors_ask_for_their_share_and_leave_nothing_claimed(
    seen: dict[str, Any], name: str, workers: int, share: float
) -> None:
    found = seen[name]
    assert found["items"] == list(range(16))
    assert (found["actors"], found["asked"], found["cpus"]) == (workers, [share], [0.0])
    assert not found["in_driver"]
    assert found["held"] == 2.0 and found["left"] == 0.0
    assert seen["claimed_at_the_end"] == 0.0


@pytest.mark.long
def test_an_actor_that_dies_is_started_anew_and_no_row_is_lost(seen: dict[str, Any]) -> None:
    assert seen["died_once"] == [item * item for item in range(12)]
    assert seen["died_always"].startswith("WorkersLost: A worker died 4 times, most likely for want of memory")


@pytest.mark.long
def test_bad_input_is_told_as_it_is_whoever_finds_it(seen: dict[str, Any]) -> None:
    assert seen["bad_input"] == "UserError: The third row is not right."
    assert seen["bad_image"] == "UserError: The image is not right."


@pytest.mark.long
def test_an_encoded_dataset_is_the_same_to_the_bit_whoever_makes_it(seen: dict[str, Any], home: Home) -> None:
    outcome = encode(NAME, 0, tiny(), home)
    expected = dict(digests(home.encoded(NAME, outcome.encode_id)))
    assert sum(path.endswith(".parquet") for path in expected) == 2  # the parts of a partition are joined
    assert seen["encoded"] == {"1": expected, "2": expected}


@pytest.mark.long
def test_images_are_the_same_however_many_workers_draw(seen: dict[str, Any]) -> None:
    assert seen["drawn"] == {"1": [0, True, True], "2": [1, True, True], "3": [2, True, True]}


test_actors = checks.test()
