"""`python -m infra.site.run_notebooks PYTHON NOTEBOOK ...`: run notebooks in turn with that Python, and store what they show.

Runs where nbclient and ipykernel are; the kernel is PYTHON, which has the package and is lent ipykernel.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
CELL_S = 900
KEPT = ("image/png", "text/plain")


def run(notebook: Path, python: str) -> None:
    """Execute one notebook in its folder; stores prose, code, and what it printed and drew.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; shows its traceback.
    """
    found = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels/pangu"
        kernel.mkdir(parents=True)
        argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "PanGu", "language": "python"}))
        lent = [path for path in sys.path if path.endswith("site-packages")]
        environment = os.environ | {
            "JUPYTER_PATH": folder,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *lent]),
            "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")]),
        }
        os.environ["JUPYTER_PATH"] = folder
        client = NotebookClient(
            found, timeout=CELL_S, kernel_name="pangu", resources={"metadata": {"path": str(notebook.parent)}}
        )
        client.execute(env=environment)
    tidy(found)
    nbformat.write(found, notebook)


def tidy(found: nbformat.NotebookNode) -> None:
    """Keep what readers see: no warnings, no other form of a picture, no traces of the run."""
    for number, cell in enumerate(each for each in found.cells if each.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell.execution_count = number + 1
        kept = [each for each in cell.outputs if each.get("name") != "stderr"]
        for output in kept:
            if "execution_count" in output:
                output["execution_count"] = number + 1
            if "data" in output:
                output["data"] = {kind: output["data"][kind] for kind in KEPT if kind in output["data"]}
                if "image/png" in output["data"]:
                    output["data"].pop("text/plain", None)
        cell.outputs = kept
    found.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


if __name__ == "__main__":
    for path in sys.argv[2:]:
        run(Path(path).resolve(), sys.argv[1])
        print(path)
