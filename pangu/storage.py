"""Where everything lies: all state of an installation under one folder, `$PANGU_HOME` or `./var`.

Only names of places; nothing is created here except by the functions that say so.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pangu.errors import UserError

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, of bytes that are no UTF-8 as Python reads them, and of line ends."""


@dataclass(frozen=True)
class Home:
    """The folder of one installation. Every path is absolute, because Ray workers change directory.

    tables: where dataset tables lie instead, e.g. s3://bucket/prefix, or an absolute path; `$PANGU_TABLES`, empty for under the
        root.
    """

    root: Path
    tables: str = field(default_factory=lambda: _tables(os.environ.get("PANGU_TABLES", "")))

    @classmethod
    def from_environment(cls) -> "Home":
        """The home that `$PANGU_HOME` names.

        Raises:
            UserError: its path has a character that nobody can print, or bytes that are no UTF-8.
        """
        root = Path(os.environ.get("PANGU_HOME") or "var").absolute()
        for character in str(root):
            if unicodedata.category(character) in UNPRINTABLE:
                raise UserError(
                    f"The path of the home, {str(root)!a}, has the unprintable character {character!a}; set PANGU_HOME to a "
                    "folder whose name is printable UTF-8."
                )
        return cls(root)

    def dataset(self, name: str) -> Path:
        """Everything about one dataset: `raw/`, `table/`, `encoded/`."""
        return self.root / "datasets" / name

    def raw(self, name: str, ingest_id: str) -> Path:
        """img2dataset's output for one URL table."""
        return self.dataset(name) / "raw" / ingest_id

    def table(self, name: str) -> Path:
        """The Delta table of the dataset, where tables lie under the root."""
        return self.dataset(name) / "table"

    def table_uri(self, name: str) -> str:
        """The Delta table of the dataset, wherever tables lie: an absolute path or a URI."""
        return f"{self.tables}/{name}" if self.tables else str(self.table(name))

    def encoded(self, name: str, encode_id: str) -> Path:
        """Latents and text embeddings of one dataset version by one set of encoders."""
        return self.dataset(name) / "encoded" / encode_id

    def run(self, run_name: str) -> Path:
        """Checkpoints and exported generator of one training run."""
        return self.root / "runs" / run_name

    def pair(self, pair_id: str) -> Path:
        """A pair folder, as `PanGuDrawPipeline.from_pretrained` reads it."""
        return self.root / "pairs" / pair_id

    def partner(self, name: str) -> Path:
        """The pipeline folder of a partner of Coop-Diffusion, as `CoopPipeline` reads it."""
        return self.root / "partners" / name

    @property
    def captions(self) -> Path:
        """What served models wrote about images, by the image's hash and what was asked."""
        return self.root / "captions"

    @property
    def stack(self) -> Path:
        """Addresses, token, process ids and databases of the running stack."""
        return self.root / "stack"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def _tables(place: str) -> str:
    """A URI as it is; a path as an absolute one."""
    place = place.rstrip("/")
    return place if "://" in place or not place else str(Path(place).absolute())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that readers see the old file or the new one, also after a power cut."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written, which takes the place of `path` when all is on the disk, and goes if anything is raised.

    What a process that was killed left of it is written over by the next one. Several may write at once; the last one's stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(path) as (file, temporary):
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """An empty file beside `path` that nobody else writes, and where it lies."""
    temporary = path.with_name(f".{path.name}.tmp")
    file = _taken(temporary)
    if file is None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        file = temporary.open("wb")
    with file:
        yield file, temporary


def _taken(path: Path) -> BinaryIO | None:
    """The file at `path`, empty and locked, whoever left it; None while somebody writes it, or where it cannot be told."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except PermissionError:  # another user's
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # it was not moved away meanwhile, as a finished one
            file.truncate(0)
            return file
    except OSError:
        pass
    file.close()
    return None


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` of `value` as indented JSON."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False).encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
