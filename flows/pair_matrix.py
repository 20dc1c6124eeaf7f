"""The new halves with the champion's, each with each: it shows which half became better."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from flows.reporting import best_effort
from flows.stages import matrix
from flows.training_report import data_uri, small
from pangu.contract import expert_roles
from pangu.errors import UserError
from pangu.evaluate.matrix_picture import labels


def compare_halves(decided: Mapping[str, Any], *arguments: Any) -> None:
    """The artifact `pair-matrix`, where there is a champion to compare with; `arguments` are those of the stage `matrix`.

    Halves that do not fit the champion's, after a change of the boundary for example, are no reason to fail.
    """
    if decided["champion_version"] is None or decided["already_done"]:
        return
    try:
        show_matrix(matrix(*arguments))
    except UserError as error:
        get_run_logger().warning("There is no pair matrix: %s", error)


@best_effort
def show_matrix(compared: Mapping[str, Any]) -> None:
    create_markdown_artifact(markdown(compared), key="pair-matrix")


def markdown(compared: Mapping[str, Any]) -> str:
    """A `pangu.evaluate.matrix.MatrixOutcome` as markdown: its picture, and a table with the best pair first."""
    metrics, pairs = list(compared["ranked_by"]), compared["pairs"]
    most = max(len(one.get("middles", ())) for one in pairs)
    roles = expert_roles(2 + most)
    rows = [[one["structure"], *one.get("middles", ()), one["texture"]] for one in pairs]
    names = labels(list(dict.fromkeys(folder for row in rows for folder in row)))
    lines = [[*roles, *metrics], ["---"] * (len(roles) + len(metrics))]
    for one, row in zip(pairs, rows, strict=True):
        lines.append([names[folder] for folder in row] + [f"{one['metrics'][name]:.4g}" for name in metrics])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## Pair matrix\n\n![matrix]({data_uri(small(Path(compared['picture'])))})\n\n{table}\n"
