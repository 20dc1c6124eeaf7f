"""What `deploy` refuses before it touches anything that runs."""

from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.serve import ray_cluster
from pangu.serve.deploy import serve_port
from pangu.serve.settings import PARTS_VERSION, ServeSettings, read_settings
from tests import subtests


@subtests.parametrize("port", ["", "eight thousand", "0", "65536", "-1", "８０００"])
def test_a_port_is_a_number_from_1_to_65535(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("PANGU_SERVE_PORT", port)
    with pytest.raises(UserError, match="PANGU_SERVE_PORT"):
        serve_port()


def test_settings_come_from_a_file_and_keep_the_defaults_that_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"max_in_flight": 3}')
    assert read_settings(path) == ServeSettings(max_in_flight=3)


@subtests.parametrize(
    ("text", "named"), [('{"speed": 1}', "speed"), ('{"timeout_s": 0}', "timeout_s"), ("{", "the file")]
)
def test_bad_settings_name_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"settings.json: {named}"):
        read_settings(path)
    with pytest.raises(UserError, match="can not be read"):
        read_settings(tmp_path / "absent.json")


def test_a_running_application_keeps_its_settings() -> None:
    chosen = ServeSettings(max_in_flight=5)
    details = {"applications": {"pangu": {"deployed_app_config": {"args": chosen.arguments()}}}}
    assert ray_cluster.running_settings(details) == chosen
    ray_cluster.check_parts(details)
    assert ray_cluster.running_settings({"applications": {}}) is None
    assert ray_cluster.running_settings({"applications": {"pangu": {"deployed_app_config": None}}}) is None


@subtests.parametrize(("version", "word"), [({}, "older"), ({"parts_version": PARTS_VERSION + 1}, "newer")])
def test_a_server_of_other_code_is_not_swapped_but_named(version: dict[str, int], word: str) -> None:
    """Its gateway would have pools of both for a while, and answers nobody afterwards."""
    args = ServeSettings().model_dump(mode="json") | version
    with pytest.raises(UserError, match=f"runs {word} code than this.*`pangu down` and `pangu up`"):
        ray_cluster.check_parts({"applications": {"pangu": {"deployed_app_config": {"args": args}}}})
    ray_cluster.check_parts({"applications": {}})


def test_a_declaration_has_settled_once_serve_runs_it_and_not_the_one_before() -> None:
    running = {"status": "RUNNING", "last_deployed_time_s": 100.0}
    assert ray_cluster.settled(running, before=0.0)
    assert not ray_cluster.settled(running, before=100.0)
    assert not ray_cluster.settled(running | {"status": "DEPLOYING"}, before=0.0)
    assert not ray_cluster.settled({}, before=0.0)
    failed = {"status": "DEPLOY_FAILED", "message": "no such device", "last_deployed_time_s": 100.0}
    assert ray_cluster.failure(failed, before=0.0) == "no such device"
    assert ray_cluster.failure(failed, before=100.0) is None


def test_pools_that_somebody_asked_for_stay_pools(tmp_path: Path) -> None:
    """Those that a deploy of before remembered with every other field are what `auto` is now."""
    path = tmp_path / "settings.json"
    path.write_text('{"layout": "pools"}')
    assert read_settings(path).layout == "pools"
    path.write_text(ServeSettings(layout="pools").model_dump_json())
    assert read_settings(path).layout == "pools"
    path.write_text(ServeSettings(layout="pools").model_dump_json(exclude={"offload_idle"}))
    assert read_settings(path).layout == "auto"
