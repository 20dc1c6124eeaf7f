"""The history of a run: one line per step, whatever was interrupted; and the curves that are drawn from it."""

import io
import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.train.curves import POINTS, curves_of, draw_curves, thinned
from pangu.train.history import History, Line, read_history
from tests import subtests

checks = subtests.Checks()


@checks
def a_resumed_run_repeats_steps_but_not_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for steps in (range(1, 6), range(3, 9)):
        history = History(path)
        for step in steps:
            history.add(step, {"loss": 1 / step})
    assert [line.step for line in read_history(path)] == list(range(1, 9))
    assert [line.step for line in read_history(path, 6)] == [7, 8]
    assert read_history(path)[3].metrics == {"loss": 0.25}


@checks
@given(cut=st.integers(1, 200))
def a_torn_line_costs_that_line_only(tmp_path_factory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    for step in (1, 2):
        History(path).add(step, {"loss": 1.0})
    whole = path.read_bytes()
    kept = whole[: max(1, len(whole) - cut)]
    path.write_bytes(kept)
    before = [line.step for line in read_history(path)]
    for step in (1, 2, 3):
        History(path).add(step, {"loss": 2.0})
    after = [line.step for line in read_history(path)]
    assert after == [1, 2, 3]
    assert before == after[: len(before)]


@checks
def a_disk_that_takes_no_line_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    history = History(tmp_path / "new" / "metrics.jsonl")
    history.path = tmp_path / "metrics.jsonl"
    history.add(1, {"loss": 1.0})
    assert history.last_step == 0


@checks
def curves_are_ordered_by_timestep_and_leave_out_what_is_not_finite() -> None:
    lines = [
        Line(step, 0, {"loss": math.nan if step == 2 else 1.0, "loss/t125-249": 2.0, "loss/t0-124": 3.0})
        for step in (1, 2, 3)
    ]
    lines.append(Line(4, 0, {"held_out_loss": 1.5, "held_out_loss/t0-124": 1.0, "lr": 0.1}))
    curves = curves_of(lines)
    assert list(curves) == ["held_out_loss", "loss", "loss/t0-124", "loss/t125-249"]
    assert curves["loss"] == [(1.0, 1.0), (3.0, 1.0)]


@checks
@given(count=st.integers(0, 2000))
def a_long_curve_is_thinned_without_moving_its_mean(count: int) -> None:
    points = [(step, float(step % 7)) for step in range(count)]
    curve = thinned(points)
    assert len(curve) <= POINTS
    if count % max(1, -(-count // POINTS)) == 0 and count:
        assert math.isclose(sum(y for _, y in curve) / len(curve), sum(y for _, y in points) / count, abs_tol=1e-9)


@checks
def a_curve_is_a_picture_even_of_one_line() -> None:
    for lines in ([], [Line(20, 0, {"loss": 1.0})], [Line(s, 0, {"loss": 1 / s}) for s in range(1, 9)]):
        with Image.open(io.BytesIO(draw_curves(curves_of(lines), "train-texture", 8))) as picture:
            assert picture.format == "PNG"


test_history = checks.test()
