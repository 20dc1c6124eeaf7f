"""A plain name for a table whose path deltalake cannot take: a folder of links to the folders of the table.

Links inside the folder help where a link to the folder does not, because deltalake resolves the path of a table, but not what
lies in it. Knows nothing of what is in a table.
"""

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from pangu.errors import UserError

UNFIT = re.compile(r"[\[\]^|\\]|%[0-9A-Fa-f]{2}")
"""deltalake 1.6 makes a host name of a table's path, in which these may not stand, and decodes percent signs twice."""


LOG = "_delta_log"


def needs_link(path: str) -> bool:
    """Whether deltalake, which follows links to a table, cannot take where this path leads."""
    return UNFIT.search(os.path.realpath(path)) is not None


def plain_folder(table: Path) -> Path:
    """A folder under a plain path, with a link to each folder that `table` has now; made anew where somebody removed it.

    Raises:
        UserError: the path of the temporary folder is not plain either, or another user was there first.
    """
    root = Path(tempfile.gettempdir()).resolve() / f"pangu-tables-{os.getuid()}"
    if found := UNFIT.search(str(root)):
        raise UserError(f"Neither {table} nor {root} may have {found[0]} in it; set TMPDIR to a folder without it.")
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise UserError(f"{root} belongs to another user; remove it, or set TMPDIR to a folder of your own.")
    folder = root / hashlib.sha256(os.fsencode(table)).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():
        if not link.exists():
            link.unlink(missing_ok=True)
    if table.is_dir():
        (table / LOG).mkdir(exist_ok=True)  # a new table's log must come to lie here, not in the folder of links
        for child in table.iterdir():
            if child.is_dir():
                with suppress(FileExistsError):
                    (folder / child.name).symlink_to(child)
    return folder
