"""A recipe of three experts goes the whole way of a retraining, is measured and released again, and is served in two layouts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pangu.config import Recipe
from pangu.data.example.openmoji import render_png, selection
from pangu.recipes import tiny
from pangu.stack import Stack
from pangu.stack.prefect_api import prefect_api
from pangu.storage import write_json
from tests.dashboard import finish, press
from tests.own_stack import own_stack
from tests.serve.served_pair import run_deploy

pytestmark = [pytest.mark.long, pytest.mark.slow]
PATIENCE_S = 900.0
STEPS = {"structure": 3, "middle": 2, "texture": 4}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of its own: a champion of another recipe would decide at the gate."""
    with own_stack(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def card(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for index, one in enumerate(selection(12)):
        (tmp_path / f"images/{index}.png").write_bytes(render_png(one, 96))
        write_json(tmp_path / f"images/{index}.json", {"en": one.caption_en, "zh": one.caption_zh})
    path = tmp_path / "three-experts.yaml"
    path.write_text(
        "name: three-experts\nsource: images\ncolumns: {caption_en: en, caption_zh: zh}\n"
        "licence: {name: CC BY-SA 4.0}\ntexture_min_side: 64\n"
    )
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    told = tiny().model_dump(mode="json")
    jobs = told["jobs"] | {"middle": told["jobs"]["texture"]}
    sampling = told["sampling"] | {"num_inference_steps": 10}  # so many that each of the three has some
    three = Recipe.model_validate(told | {"jobs": jobs, "further_boundaries": [200], "sampling": sampling})
    (tmp_path / "three.json").write_text(three.model_dump_json())
    return tmp_path / "three.json"


def outcome(stack: Stack, run: str, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stack.home / "flows" / run / f"{stage}.json").read_text())
    return found


def deployments(stack: Stack, method: str = "GET") -> set[str]:
    headers, url = {"Authorization": f"Bearer {stack.token}"}, f"{stack.ray_dashboard_url}/api/serve/applications/"
    answer = httpx.request(method, url, headers=headers, timeout=60).raise_for_status()
    return set(answer.json()["applications"]["pangu"]["deployments"]) if method == "GET" else set()


def steps_of(stack: Stack, asked: Any) -> dict[str, int]:
    body = {"prompt": "an apple", "seed": 1, "num_inference_steps": asked}
    answer = httpx.post(f"{stack.serve_url}/v1/images/generations", json=body, timeout=120)
    found: dict[str, int] = answer.raise_for_status().json()["steps"]
    return found


def test_three_experts_are_retrained_measured_released_and_served(
    stack: Stack, card: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    api = prefect_api(stack)

    def pressed(deployment: str, **settings: Any) -> str:
        run: str = press(api, deployment, settings).raise_for_status().json()["id"]
        assert finish(api, run, timeout_s=PATIENCE_S)["type"] == "COMPLETED", deployment
        return run

    three = {"card": str(card), "recipe_file": str(recipe)}
    run = pressed("retrain-pair", **three, approval="none")
    released = outcome(stack, run, "release")
    assert set(released["middle_versions"]) == {"middle"}
    model = httpx.get(f"{stack.serve_url}/v1/models").json()["data"][0]
    assert model["experts_between"] == ["middle"] and model["middle_versions"] == released["middle_versions"]
    assert steps_of(stack, STEPS) == STEPS

    measured = outcome(stack, pressed("evaluate-pair", **three), "evaluate")
    assert measured["pair_id"] == outcome(stack, run, "evaluate")["pair_id"], "the latest of each expert"
    folders = {role: outcome(stack, run, f"train-{role}")["generator"] for role in STEPS}
    figures = stack.home / "flows" / run / "evaluate.json"
    halves = {"structure": folders["structure"], "texture": folders["texture"], "middles": [folders["middle"]]}
    again = pressed("release-pair", pair=measured["pair"], **halves, metrics=str(figures), deploy=False)
    assert outcome(stack, again, "release")["sha256"] == released["sha256"]

    write_json(tmp_path / "pools.json", {"layout": "pools"})
    run_deploy("champion", "--settings", str(tmp_path / "pools.json"))
    assert deployments(stack) == {"gateway", "structure", "middle", "texture", "decoder"}
    assert steps_of(stack, STEPS) == STEPS and steps_of(stack, 9).keys() == STEPS.keys()
    deployments(stack, "DELETE")
