"""Few fields stand open, the rest is folded, every name of before is still taken: by Prefect's own validation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.schema_tools.validation import build_error_obj, is_valid_schema, validate
from pydantic import ValidationError

from flows.deploy_pair import deploy_pair
from flows.distill_pair import distill_pair
from flows.encode_dataset import encode_dataset
from flows.evaluate_pair import evaluate_pair
from flows.ingest_images import ingest_images
from flows.parameters import RetrainPair
from flows.prepare_dataset import prepare_dataset
from flows.release_pair import release_pair
from flows.retrain_pair import retrain_pair
from flows.rollback_pair import rollback_pair
from flows.train_generators import train_generators
from flows.train_partner import train_partner
from flows.vacuum_datasets import vacuum_datasets
from pangu.data.card import listed_cards
from pangu.forms import CARD_NAME, MORE, flat, folded, hidden_fields, known_fields
from tests import subtests

checks = subtests.Checks()

FLOWS = {
    one.name: one
    for one in (
        deploy_pair, distill_pair, encode_dataset, evaluate_pair, ingest_images, prepare_dataset, release_pair,
        retrain_pair, rollback_pair, train_generators, train_partner, vacuum_datasets,
    )
}  # fmt: skip
MOST_OPEN = 5
FULL = {
    "card": "openmoji", "timeout_h": 168.0, "recipe": "tiny", "recipe_file": "", "approval": "person", "deploy": False,
    "changes": {"structure_steps": 3, "texture_steps": 4, "lr_peak": None, "seed": 5}, "every_node": True,
    "evaluation": {"prompts": 4, "matrix": True}, "preparing": {"workers": 2}, "devices": {"workers": None, "gpus": 0.5},
    "further": [{"dataset": "photos", "weight": 0.5}],
}  # fmt: skip
"""Settings as schedules, deployments and automations of before hold them."""


def schema_of(flow: Any) -> dict[str, Any]:
    found: dict[str, Any] = flow.parameters.model_dump()
    return found


def form_of(flow: Any) -> dict[str, Any]:
    schema = schema_of(flow)
    found: dict[str, Any] = schema["definitions"][schema["properties"]["settings"]["$ref"].rpartition("/")[2]]
    return found


def faults(settings: dict[str, Any]) -> Any:
    """What the server answers to the form, as the dashboard shows it."""
    return build_error_obj(validate({"settings": settings}, schema_of(retrain_pair)))


@subtests.parametrize("name", FLOWS)
def test_few_fields_stand_open_each_has_a_title_and_none_is_of_type_none(name: str) -> None:
    schema, form = schema_of(FLOWS[name]), form_of(FLOWS[name])
    is_valid_schema(schema)
    assert len(form["properties"]) <= MOST_OPEN + 1 and next(reversed(form["properties"])) == MORE
    groups = [one for one in schema["definitions"].values() if one.get("type") == "object"]
    for group in [*groups, {"properties": hidden_fields(form)}]:
        places = [field["position"] for field in group["properties"].values()]
        assert places == list(range(len(places)))
        for key, field in group["properties"].items():
            assert field["title"] != key.replace("_", " ").title() or len(key.split("_")) == 1, key
            assert field["description"] and "anyOf" not in field and field.get("type") != "null", key


@checks
def the_cards_that_exist_are_a_list_and_another_ones_file_is_folded() -> None:
    form = form_of(retrain_pair)
    assert form["properties"][CARD_NAME]["enum"] == listed_cards() and "openmoji" in listed_cards()
    assert form["properties"][CARD_NAME]["default"] == "openmoji"
    assert RetrainPair.model_validate({CARD_NAME: "openmoji", MORE: [{"card_file": "/a/b.yaml"}]}).card == "/a/b.yaml"
    assert RetrainPair.model_validate({"card": "hidden", CARD_NAME: "openmoji"}).card == "openmoji", (
        "what is seen counts"
    )


@checks
def settings_of_before_are_taken_by_server_and_flow_and_mean_what_they_meant() -> None:
    assert faults(FULL) == {"errors": [], "valid": True}
    before, now = RetrainPair.model_validate(FULL), folded(FULL, form_of(retrain_pair))
    assert set(now) == {CARD_NAME, "recipe", MORE} and faults(now)["valid"]
    assert RetrainPair.model_validate(now) == before and flat(now) == flat(FULL)
    assert before.changes.structure_steps == 3 and before.devices.gpus == 0.5 and before.evaluation.matrix
    assert FULL.keys() <= known_fields(form_of(retrain_pair))


@checks
def an_empty_form_is_what_the_recipe_says() -> None:
    empty = {CARD_NAME: "openmoji", "recipe": "automatic", "steps": None, MORE: []}
    opened = empty | {MORE: [{"changes": [{"lr_peak": None, "start_from": ""}], "recipe_file": "", "evaluation": []}]}
    for settings in ({}, empty, opened):
        assert faults(settings)["valid"]
        assert RetrainPair.model_validate(settings) == RetrainPair()
    assert RetrainPair().chosen_recipe == "demo"
    assert RetrainPair(steps=7, changes={"texture_steps": 9}).all_changes.model_dump(exclude_none=True) == {
        "structure_steps": 7, "texture_steps": 9,
    }  # fmt: skip


@subtests.parametrize(
    ("settings", "place", "said"),
    [
        ({"steps": 0}, ["steps"], "0 is less than the minimum of 1"),
        ({"steps": 1.5}, ["steps"], "1.5 is not"),
        ({MORE: [{"timeout_h": 0}]}, [MORE, 0, "timeout_h"], "0 is less than or equal to the minimum of 0"),
        ({MORE: [{"changes": [{"lr_peak": 7}]}]}, [MORE, 0, "changes", 0, "lr_peak"], "7 is greater than the maximum"),
        ({"changes": {"lr_peak": 7}}, ["changes", "lr_peak"], "7 is greater than the maximum of 1"),
        ({CARD_NAME: "nobodys"}, [CARD_NAME], "'nobodys' is not one of"),
    ],
)
def test_a_wrong_value_is_marked_where_it_stands(settings: dict[str, Any], place: list[Any], said: str) -> None:
    found = faults(settings)["errors"]
    for part in ["settings", *place]:
        key = "index" if isinstance(part, int) else "property"
        (found,) = (one["errors"] for one in found if one[key] == part)
    assert said in found[0]
    if CARD_NAME not in settings:  # the flow itself looks for the card
        with pytest.raises(ValidationError):
            RetrainPair.model_validate(settings)


@checks
def several_wrong_values_are_all_marked_for_the_dashboard_can_show_no_mixture() -> None:
    """Prefect's server answers 500, and the dashboard nothing, where a group and a field in it are both wrong."""
    wrong = {"steps": 0, MORE: [{"changes": [{"lr_peak": 7, "seed": -1}], "approval": "x"}]}
    assert len(str(faults(wrong)).split("'property'")) == 1 + 7


@checks
@given(st.sets(st.sampled_from(sorted(FULL))))
def folding_and_flattening_lose_nothing(names: set[str]) -> None:
    settings = {name: FULL[name] for name in names}
    assert flat(folded(settings, form_of(retrain_pair))) == flat(settings)
    assert folded(settings, {}) == settings, "a server with older forms is sent what it knows"


test_folded = checks.test()
