"""What the flows tell Prefect's event log, so that automations can wait for it."""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

NEW_VERSION = "pangu.dataset.new-version"


def announce(card: str, prepared: Mapping[str, Any]) -> None:
    """Say that a dataset has a new version; nothing where the version was there already."""
    if prepared["already_done"]:
        return
    name, version = prepared["dataset"], prepared["version"]
    emit_event(
        NEW_VERSION,
        resource={"prefect.resource.id": f"pangu.dataset.{name}", "prefect.resource.name": name},
        payload={"card": card, "version": version},
    )
