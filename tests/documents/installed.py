"""The packages that documents write as examples, put where Python finds them, as an installer leaves them."""

import importlib
import tomllib
from pathlib import Path

import pytest

from tests.documents.blocks import blocks_of


def install(document: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Each Python block that begins with the name of its file is that file; each TOML block says its entry points."""
    for block in blocks_of(document):
        first = block.text.splitlines()[0]
        if block.language == "python" and first.startswith("# ") and first.endswith(".py"):
            (folder / first[2:]).write_text(block.text)
        if block.language == "toml":
            points = tomllib.loads(block.text)["project"]["entry-points"]
            metadata = folder / f"example_{block.line}-1.0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: example-{block.line}\nVersion: 1.0\n")
            lines = [
                f"[{name}]\n" + "\n".join(f"{key} = {value}" for key, value in of.items())
                for name, of in points.items()
            ]
            (metadata / "entry_points.txt").write_text("\n".join(lines))
    patch.syspath_prepend(folder)
    importlib.invalidate_caches()
