"""What the dashboard shows of a prepared dataset: what was dropped, for what, and what that looked like."""

from collections.abc import Mapping
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.reporting import best_effort
from pangu.data.prepare.report import markdown
from pangu.data.table.rejected import examples, rejected_folder
from pangu.storage import Home

EXAMPLES = 4


@best_effort
def show_dropped(outcome: Mapping[str, Any]) -> None:
    """How many rows were dropped for what, with example images, in the run's artifacts."""
    home, name = Home.from_environment(), outcome["dataset"]
    dropped = examples(rejected_folder(home, name, outcome["key"]), home.table_uri(name), EXAMPLES)
    shown = markdown(name, outcome["dropped"], outcome["rows"], outcome["report"], dropped)
    create_markdown_artifact(shown, key="prepare-report")
