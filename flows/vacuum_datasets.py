"""Deployment `vacuum-datasets`: give back the space of old dataset versions."""

from typing import Any

from prefect import flow

from flows.parameters import VacuumDatasets
from flows.reporting import staged
from flows.stages import stop_everything, vacuum
from pangu.storage import Home

DEFAULTS = VacuumDatasets()


@flow(name="vacuum-datasets", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def vacuum_datasets(settings: VacuumDatasets = DEFAULTS) -> dict[str, Any]:
    """One dataset, or every one of this installation, in turn."""
    names = [settings.dataset] if settings.dataset else prepared_datasets(Home.from_environment())
    return {name: vacuum(name, settings.keep, settings.dry_run) for name in names}


def prepared_datasets(home: Home) -> list[str]:
    """Names of the datasets whose table lies under the home, or which were prepared here for one that lies elsewhere."""
    folders = (home.root / "datasets").glob("*/" + ("raw" if home.tables else "table"))
    return sorted(folder.parent.name for folder in folders)
