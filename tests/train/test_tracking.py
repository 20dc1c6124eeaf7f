"""MLflow beside a training that nobody answers: nothing waits, and what is missing is said."""

from pathlib import Path

import pytest

from pangu.stack.ports import free_port
from pangu.train.mlflow_run import PAIR, code_digest, flatten, tags_of
from tests import subtests
from tests.train.tracked import start, tracked_job, write

checks = subtests.Checks()


@checks
def without_a_server_nothing_waits_and_one_sentence_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    tracker, history = start(tracked_job(tmp_path))
    write(tracker, history, range(1, 5))
    sentence = tracker.finish(patience_s=0.2)
    assert f"MLflow at 127.0.0.1:{port} lacks the last 4 log lines" in sentence
    assert str(history.path) in sentence


@checks
def without_an_address_nothing_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker, history = start(tracked_job(tmp_path))
    write(tracker, history, range(1, 5))
    assert tracker.finish() == ""


@checks
def the_runs_of_a_pair_share_a_tag_and_those_of_another_recipe_do_not(tmp_path: Path) -> None:
    structure, texture = (tags_of(tracked_job(tmp_path, role), "small", 3) for role in ("structure", "texture"))
    other = tags_of(tracked_job(tmp_path, encode_id="another"), "small", 3)
    assert structure[PAIR] == texture[PAIR] != other[PAIR]


@checks
def parameters_are_the_recipe_in_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {"a.b": "1", "a.c.d": "None", "e": "[1, 2]"}


@checks
def the_code_is_told_by_its_content() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest()) == 12


test_tracking = checks.test()
