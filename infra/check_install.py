"""Say in one sentence what an installation lacks: `pip check`, less what is left out on purpose. `make setup` ends with it."""

import subprocess
import sys

ON_PURPOSE = ("spandrel 0.4.2 requires torchvision, which is not installed.",)
"""spandrel enlarges images without torchvision, which has no build beside the CPU build of torch."""


def lacking(report: str) -> list[str]:
    """The complaints of a `pip check` that are not there on purpose, in its own words."""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return [line for line in lines if line not in ON_PURPOSE and line != "No broken requirements found."]


def main() -> None:
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if found := lacking(checked.stdout + checked.stderr):
        sys.exit(f"The installation is not whole: {' '.join(found)} Correct constraints.txt.")


if __name__ == "__main__":
    main()
