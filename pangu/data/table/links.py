"""Plain names for folders whose paths a library cannot take: links below the temporary folder, made anew whenever needed.

Knows nothing of what is in the folders.
"""

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from pangu.errors import UserError

UNFIT_FOR_DELTA = re.compile(r"[\[\]^|\\]|%[0-9A-Fa-f]{2}")
"""deltalake 1.6 makes a host name of a table's path, in which these may not stand, and decodes percent signs twice."""
UNFIT_FOR_FSSPEC = re.compile(r"[*?\[]|::")
"""What fsspec takes for a pattern, or for two file systems, in the path of a local file."""
LOG = "_delta_log"


def for_delta(table: Path) -> Path:
    """The folder of a table as deltalake can take it: itself, or a plain folder with a link to each of its folders.

    A link to the whole would not help: deltalake follows it, but none in the folder.

    Raises:
        UserError: see `_links`.
    """
    if not UNFIT_FOR_DELTA.search(os.path.realpath(table)):
        return table
    folder = _links(table) / "table"
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():
        if not link.exists():
            link.unlink(missing_ok=True)
    if table.is_dir():
        (table / LOG).mkdir(exist_ok=True)  # a new table's log must come to lie here, not among the links
        for child in table.iterdir():
            if child.is_dir():
                _link(folder / child.name, child)
    return folder


def for_fsspec(folder: Path) -> Path:
    """A folder as those can take it who give its path to fsspec: itself, or a plain link to it.

    Raises:
        UserError: see `_links`.
    """
    if not UNFIT_FOR_FSSPEC.search(str(folder)):
        return folder
    link = _links(folder) / "folder"
    _link(link, folder)
    return link


def _link(link: Path, target: Path) -> None:
    with suppress(FileExistsError):
        link.symlink_to(target)


def _links(target: Path) -> Path:
    """Where the links to one folder lie.

    Raises:
        UserError: the path of the temporary folder is not plain either, or another user was there first.
    """
    root = Path(tempfile.gettempdir()).resolve() / f"pangu-links-{os.getuid()}"
    for unfit in (UNFIT_FOR_DELTA, UNFIT_FOR_FSSPEC):
        if found := unfit.search(str(root)):
            raise UserError(
                f"The path of the temporary folder, {root.parent}, has '{found[0]}' in it; set TMPDIR to a plain one."
            )
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UserError(f"{root} belongs to another user; remove it, or set TMPDIR to a folder of your own.")
    folder = root / hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    return folder
