"""The licence of every pin, as its package says.

python infra/licences.py > infra/licences.txt    # in the environment of `make setup`
"""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
READ_BY_HAND = {
    "async-timeout": "Apache-2.0",
    "axe-playwright-python": "MIT, with axe-core: MPL-2.0",
    "huey": "MIT",
    "resvg_py": "MIT",
    "skops": "MIT",
    "standard-imghdr": "PSF-2.0",
    "torchao": "BSD-3-Clause",
    "whenever": "MIT",
}
"""What their metadata does not say, or is not installed on every Python: read in their packages."""
LONGEST = 60
"""Characters of a licence's name; what is longer is its text."""


def licence(name: str) -> str:
    """What was read by hand, its SPDX expression, its own words, or its classifiers; "not said" where there are none of them."""
    if name in READ_BY_HAND:
        return READ_BY_HAND[name]
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    if expression := told.get("License-Expression"):
        return str(expression)
    words = " ".join(str(told.get("License") or "").split())
    classified = [
        line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or () if line.startswith("License ::")
    ]
    if 0 < len(words) <= LONGEST and words.upper() != "UNKNOWN":
        return words
    if classified:
        return ", ".join(classified)
    begins = re.match(r"(?:The )?((?:MIT|Apache|BSD|ISC|PSF|Mozilla)[\w .-]*?)(?: License|,|$)", words)
    return begins[1] if begins else "not said"


def main() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name = Requirement(line).name
            print(f"{name}: {licence(name)}")


if __name__ == "__main__":
    main()
