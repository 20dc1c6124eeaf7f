"""Everything that the doctor finds wrong comes with a remedy."""

import os
import socket
from pathlib import Path

import pytest

from pangu.stack import doctor
from pangu.stack.doctor import examine
from pangu.storage import Home
from tests import subtests

checks = subtests.Checks()


@checks
def every_finding_that_is_not_ok_has_a_remedy_and_only_those(tmp_path: Path) -> None:
    findings = examine(Home(tmp_path))
    assert {one.state for one in findings} <= {"ok", "warning", "failure"}
    assert all(bool(one.remedy) == (one.state != "ok") for one in findings)
    assert {"Python", "fastapi", "memory", "disk", "home", "open files", "port 4200"} <= {one.what for one in findings}
    assert not [one for one in findings if one.state == "failure"]


@checks
def a_port_that_somebody_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "CUSTOMARY", {"mlflow_port": port})
        (found,) = doctor.ports(Home(tmp_path))
        assert (found.what, found.state, found.found) == (f"port {port}", "warning", "taken")
        assert "another one for mlflow" in found.remedy


@checks
def too_little_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MEMORY_BYTES", "DISK_BYTES", "OBJECT_STORE_BYTES"):
        monkeypatch.setattr(doctor, limit, 2**60)
    small = {one.what for one in examine(Home(tmp_path)) if one.state == "warning"}
    assert {"memory", "disk"} <= small


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_can_not_be_written_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert any(one.what == "home" and one.state == "failure" for one in examine(Home(tmp_path / "x")))


test_doctor = checks.test()
