"""YAML, JSON and TOML of the documents, held against the models that read them."""

import importlib.metadata
import json
import tomllib
from typing import Any

import yaml

from pangu.config import Recipe
from pangu.data.card import Columns
from pangu.recipes import demo
from pangu.serve.api.keys import parse_keys
from pangu.serve.settings import ServeSettings

ENDLESS = {"...": None}
"""How YAML reads `{...}`, which stands for whatever is there."""


def yaml_values(text: str) -> list[dict[str, Any]]:
    """The mappings of a block: one, or one a line where lines are alternatives of one key."""
    keys = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    alternatives = text.splitlines() if len(set(keys)) < len(keys) else [text]
    return [yaml.safe_load(each) for each in alternatives]


def check_yaml(text: str) -> None:
    for value in yaml_values(text):
        if value.keys() == {"columns"}:
            Columns.model_validate(value["columns"])
        else:
            check_recipe(value)


def check_json(text: str) -> None:
    """A whole value, or the key and value that a recipe takes."""
    value = json.loads(text if text.lstrip()[0] in "[{" else f"{{{text}}}")
    if isinstance(value, list):
        assert parse_keys(json.dumps(value), "a document")
    elif value.keys() <= ServeSettings.model_fields.keys():
        ServeSettings.model_validate(value)
    else:
        check_recipe(value)


def check_recipe(changes: dict[str, Any]) -> None:
    """The recipe `demo` with these keys is one; jobs that are named beyond its two are like its texture job."""
    assert changes.keys() <= Recipe.model_fields.keys(), f"no recipe has {changes.keys() - Recipe.model_fields.keys()}"
    base = demo().model_dump(mode="json")
    for role in changes.get("jobs", {}):
        base["jobs"].setdefault(role, base["jobs"]["texture"])
    Recipe.model_validate(merged(base, changes))


def merged(base: Any, changes: Any) -> Any:
    if not isinstance(changes, dict) or not isinstance(base, dict):
        return changes
    if changes == ENDLESS:
        return base
    if "family" in changes:  # another kind of network has other fields
        return changes
    return base | {key: merged(base.get(key), value) for key, value in changes.items()}


def check_toml(text: str) -> None:
    """Entry points of a group that the package asks for, each a module and a name."""
    points = tomllib.loads(text)["project"]["entry-points"]
    assert points.keys() <= {"pangu.denoisers", "pangu.losses"}
    for named in points.values():
        for name, value in named.items():
            assert importlib.metadata.EntryPoint(name, value, "group").module.isidentifier()
