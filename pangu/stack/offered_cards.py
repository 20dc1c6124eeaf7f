"""The list of cards in the dashboard's forms: made when flows are deployed, and brought up to date when cards come and go."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from pangu.forms import CARD_NAME
from pangu.stack.model import Stack
from pangu.stack.prefect_api import prefect_api


def cards_of(project: Path) -> list[str]:
    """Names of the cards in the project's `datasets/`, which are those that flows find by name."""
    return sorted(path.stem for path in (project / "datasets").glob("*.yaml"))


def outdated(server: Stack | str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Id of each deployment whose form has another list of cards -> its schema with this one."""
    with prefect_api(server) as api:
        found = api.post("/deployments/filter", json={}).raise_for_status().json()
    wanted = {one["id"]: offering(one["parameter_openapi_schema"] or {}, names) for one in found}
    return {
        one["id"]: wanted[one["id"]] for one in found if wanted[one["id"]] != (one["parameter_openapi_schema"] or {})
    }


def offer(server: Stack | str, schemas: dict[str, dict[str, Any]]) -> None:
    """Give deployments other forms; schedules, tags and everything else stay."""
    with prefect_api(server) as api:
        for deployment, schema in schemas.items():
            body = {"parameter_openapi_schema": schema}
            api.patch(f"/deployments/{deployment}", json=body).raise_for_status()


def offering(schema: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A schema of parameters with these cards to choose from, wherever it has a list of them."""
    changed = deepcopy(schema)
    for form in (changed.get("definitions") or {}).values():
        field = form.get("properties", {}).get(CARD_NAME, {})
        if "enum" in field and names:
            field["enum"] = names
            field["default"] = field["default"] if field.get("default") in names else names[0]
    return changed
