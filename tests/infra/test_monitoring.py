"""Rules and dashboards ask for nothing that is not exported."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import ray
import yaml

from pangu.monitoring.exporter import Trainings
from pangu.serve.prometheus import Metrics
from pangu.storage import Home
from tests import subtests

MONITORING = Path(__file__).parents[2] / "infra/monitoring"
DASHBOARDS = sorted((MONITORING / "grafana").glob("*.json"))
SAMPLE_SUFFIXES = ("", "_bucket", "_sum", "_count", "_total")
NAME = re.compile(r"\b((?:pangu|ray)_[a-z0-9_]+)\b")


def rules() -> list[dict]:
    return [
        rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]
    ]


def expressions() -> list[str]:
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    asked = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for rule in rules()]


@cache
def exported() -> frozenset[str]:
    """Names of everything that our gateway and our exporter export."""
    metrics = Metrics()
    metrics.drawn(1, {"structure": 1.0}, {"structure": 2.0}, 1, cached=True)
    metrics.refused(429, "rate_limit")
    names = set(re.findall(r"^# TYPE (\w+)", metrics.exposition()[0].decode(), re.MULTILINE))
    names |= {family.name for family in Trainings(Home(Path("/nowhere"))).collect()}
    source = (Path(__file__).parents[2] / "pangu/monitoring/exporter.py").read_text()
    return frozenset(names | set(re.findall(r'GaugeMetricFamily\(\s*"(\w+)"', source)))


@cache
def exported_by_ray() -> str:
    """The source of Ray's node reporter, which names what it exports without the prefix."""
    return (Path(ray.__file__).parent / "dashboard/modules/reporter/reporter_agent.py").read_text()


@subtests.parametrize("expression", sorted(set(expressions())))
def test_every_metric_that_is_asked_for_is_exported(expression: str) -> None:
    asked = NAME.findall(expression)
    for name in asked:
        if name.startswith("ray_"):
            assert f'"{name.removeprefix("ray_")}"' in exported_by_ray(), name
        else:
            stems = {name.removesuffix(suffix) for suffix in SAMPLE_SUFFIXES} | {name}
            assert stems & exported(), name
    assert asked or expression.startswith("up{")


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
    assert len({rule["alert"] for rule in rules()}) == len(rules())


@subtests.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_panels_that_do_not_overlap(path: Path) -> None:
    board = json.loads(path.read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) and len({panel["id"] for panel in board["panels"]}) == len(places)
    assert all(panel["datasource"]["uid"] == "prometheus" for panel in board["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, Debian's package prometheus")
def test_prometheus_itself_takes_rules_and_configuration() -> None:
    subprocess.run(["promtool", "check", "rules", str(MONITORING / "rules.yaml")], check=True)
    subprocess.run(["promtool", "check", "config", "--syntax-only", str(MONITORING / "prometheus.yaml")], check=True)
