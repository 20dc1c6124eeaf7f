"""Plain names for folders whose paths a library cannot take: links below the temporary folder, made anew whenever needed."""

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from pangu.errors import UserError

UNFIT = re.compile(r"[^A-Za-z0-9/._~+=@,-]")
"""deltalake 1.6 makes a URI of a table's path, decodes it twice, ends it at a '#', and makes a host name of it, in which none of
[ ] ^ | may stand. fsspec takes * ? [ for patterns and '::' for two file systems. All but the plainest characters are avoided."""
LOG = "_delta_log"


def for_delta(table: Path) -> Path:
    """The folder of a table as deltalake can take it: itself, or a plain folder with a link to each of its folders.

    A link to the whole would not help: deltalake follows it, but none in the folder.

    Raises:
        UserError: see `_links`.
    """
    if not UNFIT.search(os.path.realpath(table)):
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
    if not UNFIT.search(str(folder)):
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
    if found := UNFIT.search(str(root)):
        raise UserError(
            f"The path of the temporary folder, {root.parent}, has '{found[0]}' in it; set TMPDIR to one of letters and digits."
        )
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UserError(f"{root} belongs to another user; remove it, or set TMPDIR to a folder of your own.")
    folder = root / hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    return folder
