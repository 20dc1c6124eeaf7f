"""Turns a source of the configuration ('embedded', a folder, a hub id) into arguments of `from_pretrained`."""

from importlib.resources import files
from pathlib import Path

from pangu.errors import UserError


def locate(source: str, asset: str) -> str:
    """The folder or hub id to load from; `asset` is the folder under `pangu/assets` that 'embedded' means.

    Raises:
        UserError: the source looks like a path, but nothing is there.
    """
    if source == "embedded":
        return str(files("pangu") / "assets" / asset)
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    path = Path(source).expanduser()
    if path.exists():
        return str(path.absolute())
    if looks_like_path:
        raise UserError(f"There is no model at {source}; give a local folder, a hub id (owner/name) or 'embedded'.")
    return source
