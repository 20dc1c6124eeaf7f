"""The deployments of prefect.yaml on the real Prefect server: forms, limits, schedule, and how runs end."""

import time
from pathlib import Path
from typing import get_args

import httpx
import pytest

from flows.parameters import RecipeName
from pangu import jobs
from pangu.config import ROLES
from pangu.contract import GeneratorContract
from pangu.data.card import load_card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.stage import ingest
from pangu.data.table.delta import read_rows
from pangu.recipes import RECIPES, tiny
from pangu.stack import Stack
from pangu.stack.automations import SILENT_RUN, install_automations
from pangu.stack.flow_runs import settle
from pangu.stack.offered_cards import cards_of, offer, outdated
from pangu.stack.prefect_api import prefect_api
from pangu.stack.processes import marked
from pangu.stack.start_here import KEY, TEXT, write_start_here
from pangu.storage import Home, read_json
from pangu.train.job import find_job
from pangu.train.samples_seen import seen
from tests import subtests
from tests.dashboard import deployment, finish, press
from tests.small_dataset import NAME, commit_rows, row, small_dataset

NAMES = [
    "ingest-images", "prepare-dataset", "encode-dataset", "train-generators", "train-partner", "evaluate-pair",
    "release-pair", "deploy-pair", "rollback-pair", "vacuum-datasets", "retrain-pair", "distill-pair",
]  # fmt: skip
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def api(stack: Stack) -> httpx.Client:
    return prefect_api(stack)


@subtests.parametrize("name", NAMES)
def test_every_flow_is_a_deployment_with_a_tag_a_limit_and_a_form(api: httpx.Client, name: str) -> None:
    found = deployment(api, name)
    assert "pangu" in found["tags"]
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert found["enforce_parameter_schema"]
    assert found["description"]


@subtests.parametrize("name", NAMES)
def test_every_field_of_a_form_is_described_and_bounded(api: httpx.Client, name: str) -> None:
    definitions = deployment(api, name)["parameter_openapi_schema"]["definitions"]
    bounds = {"minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength", "enum", "pattern", "maxItems"}
    forms = [definition for definition in definitions.values() if definition.get("type") == "object"]
    assert forms
    for form in forms:
        for field, schema in form["properties"].items():
            choices = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
            plain = schema.get("type") == "boolean" or "$ref" in schema
            choices = schema.get("allOf", choices)
            assert plain or all(bounds & part.keys() for part in choices), f"{field} of {name} has no bounds"
            assert schema.get("description"), f"{field} of {name} is not described"
        assert sorted(schema["position"] for schema in form["properties"].values()) == list(
            range(len(form["properties"]))
        )


def test_a_card_that_comes_is_offered_by_the_forms_and_nothing_else_of_a_deployment_changes(
    api: httpx.Client, stack: Stack
) -> None:
    before, names = deployment(api, "retrain-pair"), cards_of(stack.project)
    assert not outdated(stack, names)
    with_one_more = outdated(stack, [*names, "photos"])
    assert len(with_one_more) == 8, "one for each form about a card"
    try:
        offer(stack, with_one_more)
        now = deployment(api, "retrain-pair")
        changed = {name for name in now if now[name] != before[name]} - {"updated", "last_polled"}
        assert changed == {"parameter_openapi_schema"}
        assert press(api, "ingest-images", {"card_name": "nobodys"}).is_client_error
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
        asked = press(api, "ingest-images", {"card_name": "photos"}, state=later).raise_for_status().json()
        api.delete(f"/flow_runs/{asked['id']}").raise_for_status()
    finally:
        offer(stack, outdated(stack, names))
    assert deployment(api, "retrain-pair")["parameter_openapi_schema"] == before["parameter_openapi_schema"]


def test_an_empty_server_says_what_to_press_first_once(api: httpx.Client, stack: Stack) -> None:
    write_start_here(stack)
    found = api.post("/artifacts/filter", json={"artifacts": {"key": {"any_": [KEY]}}}).raise_for_status().json()
    assert [one["data"] for one in found] == [TEXT] and "retrain-pair" in TEXT
    assert "**Start here.**" in deployment(api, "retrain-pair")["description"]


def test_every_flow_file_is_a_deployment(api: httpx.Client) -> None:
    flows = {path.stem.replace("_", "-") for path in (ROOT / "flows").glob("*.py") if "\n@flow(" in path.read_text()}
    assert flows == set(NAMES)


def test_a_new_dataset_version_may_start_a_retraining_and_waits_to_be_switched_on(api: httpx.Client) -> None:
    found = api.get(f"/automations/related-to/prefect.deployment.{deployment(api, 'retrain-pair')['id']}")
    (automation,) = found.raise_for_status().json()
    assert automation["enabled"] is False
    assert automation["trigger"]["expect"] == ["pangu.dataset.new-version"]
    assert automation["actions"][0]["parameters"] == {"settings": {"card": "{{ event.payload.card }}"}}


def test_a_silent_run_is_taken_for_dead_and_installing_that_again_changes_nothing(
    api: httpx.Client, stack: Stack
) -> None:
    install_automations(stack)
    named = {"automations": {"name": {"any_": [SILENT_RUN["name"]]}}}
    (automation,) = api.post("/automations/filter", json=named).raise_for_status().json()
    assert automation["enabled"] and automation["trigger"]["posture"] == "Proactive"
    assert automation["actions"][0]["state"] == "CRASHED"


def test_the_weekly_schedule_has_a_timezone_and_waits_to_be_switched_on(api: httpx.Client) -> None:
    (schedule,) = deployment(api, "retrain-pair")["schedules"]
    assert schedule["active"] is False
    assert schedule["schedule"]["timezone"] == "Asia/Shanghai"
    assert schedule["schedule"]["cron"].split()[4] == "0"


def test_the_form_offers_every_recipe_of_a_pair() -> None:
    pairs = {name for name, make in RECIPES.items() if make().strategy == "time_decoupling"}
    assert set(get_args(RecipeName)) == pairs


def test_the_server_refuses_parameters_outside_the_form(api: httpx.Client) -> None:
    assert press(api, "retrain-pair", {"recipe": "gigantic"}).is_client_error
    assert press(api, "retrain-pair", {"cards": "openmoji"}).is_client_error


def test_bad_input_fails_the_run_with_the_stages_own_sentence(api: httpx.Client) -> None:
    state = finish(api, press(api, "ingest-images", {"card": "no-such-card"}).raise_for_status().json()["id"])
    assert state["type"] == "FAILED"
    assert state["message"].startswith("There is no card 'no-such-card'")


def test_without_a_release_before_there_is_nothing_to_go_back_to(api: httpx.Client) -> None:
    state = finish(api, press(api, "rollback-pair", {"reason": "ugly reds"}).raise_for_status().json()["id"])
    assert state["type"] == "FAILED" and "has no alias 'previous' to go back to" in state["message"]


@pytest.mark.long
def test_rows_that_actors_of_the_cluster_made_are_those_that_one_process_makes(
    api: httpx.Client, stack: Stack, tmp_path: Path
) -> None:
    from pangu.data.prepare.stage import prepare

    (tmp_path / "images").mkdir()
    for index, one in enumerate(selection(8)):
        (tmp_path / f"images/{index}.png").write_bytes(render_png(one, 48 if index % 2 else 128))
        (tmp_path / f"images/{index}.txt").write_text(one.caption_en)
    path = tmp_path / "actors.yaml"
    path.write_text(
        "name: actors\nsource: images\ncolumns: {caption_en: txt}\nlicence: {name: none}\ntexture_min_side: 64\n"
        "limits: {rows_per_shard: 3}\nupscale: {target_side: 96, upscaler: lanczos, min_timestep: 300}\n"
    )
    card, alone, shared = load_card(str(path)), Home(tmp_path / "home"), Home(stack.home)
    ingested = ingest(card, shared)
    settings = {"ingest_id": ingested.ingest_id, "preparing": {"workers": 2, "every_node": True}}
    run = press(api, "prepare-dataset", {"card": str(path), **settings}).raise_for_status().json()
    assert finish(api, run["id"])["type"] == "COMPLETED"
    prepare(card, ingest(card, alone).ingest_id, alone)
    by_key = [sorted(read_rows(home, "actors", 0).to_pylist(), key=lambda row: row["key"]) for home in (shared, alone)]
    assert len(by_key[0]) == 8 and by_key[0] == by_key[1]


@pytest.mark.long
def test_a_partner_goes_from_a_form_to_a_folder_that_cooperates(
    api: httpx.Client, stack: Stack, tmp_path: Path
) -> None:
    from pangu.pipelines.coop.loading import load_pipeline

    home = Home(stack.home)
    card = tmp_path / "small.yaml"
    card.write_text(f"name: {NAME}\nsource: urls.csv\ncolumns: {{url: u, caption_en: c}}\nlicence: {{name: none}}\n")
    version = small_dataset(home)
    changes = {"steps": 2, "batch_size": 4, "resolution": 32, "num_inference_steps": 2, "sample_every": 2}
    start = {"start_from": "embedded", "start_subfolder": "structure"}
    settings = {"card": str(card), "version": version, "recipe": "single", "changes": changes | start}
    run = press(api, "train-partner", settings).raise_for_status().json()
    assert finish(api, run["id"], timeout_s=600)["type"] == "COMPLETED"
    outcomes = {path.stem: read_json(path) for path in (home.root / "flows" / run["id"]).glob("*.json")}
    contract = GeneratorContract.load(Path(outcomes["train-single"]["generator"]))
    assert (contract.role, contract.resolution, contract.trained_steps) == ("single", 32, 2)
    partner = load_pipeline(outcomes["join"]["folder"])
    assert partner.contract("single") == contract
    asked = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["train-single-report"]}}}
    (report,) = api.post("/artifacts/filter", json=asked).raise_for_status().json()
    assert "### Samples, step-000002" in report["data"]


@pytest.mark.long
def test_generators_are_trained_on_further_datasets_as_often_as_their_weight_says(
    api: httpx.Client, stack: Stack, tmp_path: Path
) -> None:
    home, drawings = Home(stack.home), list(selection(24))
    for name, some in (("mixed", drawings[:12]), ("further_one", drawings[12:])):
        commit_rows(home, [row(one, index % 2 == 1) for index, one in enumerate(some)], name=name)
    card = tmp_path / "mixed.yaml"
    card.write_text("name: mixed\nsource: urls.csv\ncolumns: {url: u, caption_en: c}\nlicence: {name: none}\n")
    (tmp_path / "recipe.json").write_text(tiny().model_dump_json())
    settings = {"card": str(card), "recipe_file": str(tmp_path / "recipe.json"), "steps": 18}
    further = [{"dataset": "further_one", "weight": 2.0}]
    run = press(api, "train-generators", {**settings, "further": further}).raise_for_status().json()
    state = finish(api, run["id"], timeout_s=1_200)
    assert state["type"] == "COMPLETED", state
    outcomes = {path.stem: read_json(path) for path in (home.root / "flows" / run["id"]).glob("*.json")}
    for role in ROLES:
        found = seen(find_job(home, Path(outcomes[f"train-{role}"]["generator"]).parent.name), None).totals()
        assert {name: facts["weight"] for name, facts in found["datasets"].items()} == {"mixed": 1, "further_one": 2}
        epochs = [facts["epochs"] for facts in found["datasets"].values()]
        assert epochs[0] > 0 and epochs[1] == 2 * epochs[0], "whole epochs of the mixture"
    missing = (
        press(api, "train-generators", {**settings, "further": [{"dataset": "nobodys"}]}).raise_for_status().json()
    )
    state = finish(api, missing["id"], timeout_s=300)
    assert state["type"] == "FAILED" and "nobodys" in state["message"]


@pytest.mark.long
def test_a_cancelled_run_takes_everything_it_started_along(
    api: httpx.Client, stack: Stack, card_that_takes_forever: Path
) -> None:
    run = press(api, "ingest-images", {"card": str(card_that_takes_forever)}).raise_for_status().json()
    deadline = time.monotonic() + 90
    while len(marked(jobs.MARK, run["id"], prefix=True)) < 2:  # the command, and the download below it
        assert time.monotonic() < deadline, api.get(f"/flow_runs/{run['id']}").json()["state"]
        time.sleep(0.5)
    asked = time.monotonic()
    api.post(f"/flow_runs/{run['id']}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    while marked(jobs.MARK, run["id"], prefix=True):
        assert time.monotonic() - asked < 15
        time.sleep(0.2)
    assert finish(api, run["id"])["type"] == "CANCELLED"


@pytest.mark.long
def test_a_stage_that_takes_too_long_is_stopped_and_says_so(api: httpx.Client, card_that_takes_forever: Path) -> None:
    settings = {"card": str(card_that_takes_forever), "timeout_h": 0.002}
    run = press(api, "ingest-images", settings).raise_for_status().json()
    state = finish(api, run["id"])
    assert state["type"] == "FAILED"
    assert state["message"].startswith("ingest was stopped after 0.002 h, its timeout_h")
    assert marked(jobs.MARK, run["id"], prefix=True) == []


@subtests.parametrize("before", ["RUNNING", "PAUSED"])
def test_a_run_that_ended_with_its_stack_is_said_to_have_ended_and_frees_its_slot(
    api: httpx.Client, stack: Stack, before: str
) -> None:
    """The state that `kill -9` of a whole stack leaves in Prefect's database, before the next `pangu up`."""
    found = deployment(api, "prepare-dataset")
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    body = {"parameters": {"settings": {"ingest_id": "x"}}, "state": later}
    run = api.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()
    under_way = {"state": {"type": before}, "force": True}
    api.post(f"/flow_runs/{run['id']}/set_state", json=under_way).raise_for_status()
    limit = f"/v2/concurrency_limits/{found['global_concurrency_limit']['id']}"
    api.patch(limit, json={"active_slots": 1}).raise_for_status()

    settle(stack, "CRASHED", "gone")

    state = api.get(f"/flow_runs/{run['id']}").raise_for_status().json()["state"]
    assert (state["type"], state["message"]) == ("CRASHED", "gone")
    assert api.get(limit).raise_for_status().json()["active_slots"] == 0
