"""Batches of requests on disk: the lines that were sent, and one line for each that was answered, in the order of the answers.

A line is answered once what became of it is on the disk; whatever was killed before is drawn again.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pangu.config import Frozen
from pangu.storage import read_json, write_atomically, write_json

IDS = re.compile(r"(file-[0-9a-f]{24}|batch_[0-9a-f]{24})(-output|-errors)?")
RESULTS = {"-output": "output.jsonl", "-errors": "errors.jsonl"}


class StoredFile(Frozen):
    """A file of lines. owner: name of the key that sent it; empty where the server has no keys."""

    id: str
    owner: str
    filename: str
    bytes: int
    created_at: int


class RequestBatch(Frozen):
    """What was asked for, and how far that is known to have ended."""

    id: str
    owner: str
    input_file_id: str
    created_at: int
    total: int = Field(description="Lines that hold something")
    metadata: dict[str, str] = Field({}, description="Of the client, returned as it is")
    status: Literal["in_progress", "cancelling", "cancelled", "completed"] = "in_progress"
    ended_at: int | None = None


class BatchStore:
    """The folder of one server. Whoever draws holds its lock; others may read, add and cancel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def used_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def add_file(self, owner: str, filename: str, content: bytes) -> StoredFile:
        stored = StoredFile(
            id=f"file-{secrets.token_hex(12)}",
            owner=owner,
            filename=filename,
            bytes=len(content),
            created_at=int(time.time()),
        )
        write_atomically(self.folder / "files" / f"{stored.id}.jsonl", content)
        write_json(self.folder / "files" / f"{stored.id}.json", stored.model_dump())
        return stored

    def file(self, file_id: str, owner: str) -> tuple[StoredFile, Path] | None:
        """A file that was sent, or the answers of a batch; None where there is none of that owner."""
        match = IDS.fullmatch(file_id)
        if match is None:
            return None
        if match[2] is not None:
            batch = self.batch(match[1], owner)
            path = self.folder / "batches" / match[1] / RESULTS[match[2]]
            if batch is None or not path.is_file():
                return None
            size = path.stat().st_size
            return StoredFile(
                id=file_id, owner=owner, filename=path.name, bytes=size, created_at=batch.created_at
            ), path
        about = self.folder / "files" / f"{file_id}.json"
        stored = StoredFile.model_validate(read_json(about)) if about.is_file() else None
        return None if stored is None or stored.owner != owner else (stored, about.with_suffix(".jsonl"))

    def create(self, owner: str, input_file_id: str, metadata: dict[str, str]) -> RequestBatch:
        content = (self.folder / "files" / f"{input_file_id}.jsonl").read_bytes()
        batch = RequestBatch(
            id=f"batch_{secrets.token_hex(12)}",
            owner=owner,
            input_file_id=input_file_id,
            created_at=int(time.time()),
            total=sum(bool(line.strip()) for line in content.split(b"\n")),
            metadata=metadata,
        )
        folder = self.folder / "batches" / batch.id
        # The lines of its own, so that a file may be deleted; the description comes last and makes it a batch.
        write_atomically(folder / "input.jsonl", content)
        write_json(folder / "batch.json", batch.model_dump())
        return batch

    def batch(self, batch_id: str, owner: str | None = None) -> RequestBatch | None:
        """A batch as it stands; None where there is none of that owner. owner: None means anybody."""
        about = self.folder / "batches" / batch_id / "batch.json"
        if not IDS.fullmatch(batch_id) or not about.is_file():
            return None
        batch = RequestBatch.model_validate(read_json(about))
        if owner is not None and batch.owner != owner:
            return None
        cancelling = batch.status == "in_progress" and (about.parent / "cancel").exists()
        return batch.model_copy(update={"status": "cancelling"}) if cancelling else batch

    def batches(self, owner: str | None = None) -> list[RequestBatch]:
        """The oldest first."""
        names = (path.parent.name for path in (self.folder / "batches").glob("*/batch.json"))
        found = [batch for batch in (self.batch(name, owner) for name in names) if batch is not None]
        return sorted(found, key=lambda batch: (batch.created_at, batch.id))

    def cancel(self, batch: RequestBatch) -> None:
        """Draw no further line of it."""
        (self.folder / "batches" / batch.id / "cancel").touch()

    def lines(self, batch: RequestBatch) -> Iterator[tuple[int, bytes]]:
        """(number from 1, line) of those that hold something."""
        content = (self.folder / "batches" / batch.id / "input.jsonl").read_bytes()
        return ((number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip())

    def answered(self, batch: RequestBatch) -> set[str]:
        """Ids of the lines whose answers are there; half a line at the end of a file, where a writer was killed, is taken off."""
        found = set()
        for name in RESULTS.values():
            path = self.folder / "batches" / batch.id / name
            if path.is_file():
                content = path.read_bytes()
                whole = content[: content.rfind(b"\n") + 1]
                if whole != content:
                    os.truncate(path, len(whole))
                found |= {json.loads(line)["id"] for line in whole.splitlines()}
        return found

    def counts(self, batch: RequestBatch) -> dict[str, int]:
        """Lines that were drawn and that failed."""
        found = {}
        for key, name in (("completed", "output.jsonl"), ("failed", "errors.jsonl")):
            path = self.folder / "batches" / batch.id / name
            found[key] = path.read_bytes().count(b"\n") if path.is_file() else 0
        return {"total": batch.total, **found}

    def append(self, batch: RequestBatch, answer: dict[str, Any], failed: bool) -> None:
        """Keep what became of a line; it is on the disk when this returns."""
        path = self.folder / "batches" / batch.id / RESULTS["-errors" if failed else "-output"]
        with path.open("ab") as file:
            file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def end(self, batch: RequestBatch, status: Literal["cancelled", "completed"]) -> None:
        ended = batch.model_copy(update={"status": status, "ended_at": int(time.time())})
        write_json(self.folder / "batches" / batch.id / "batch.json", ended.model_dump())

    def delete(self, stored: StoredFile) -> None:
        """A file that was sent; batches of it have lines of their own."""
        for ending in ("json", "jsonl"):
            (self.folder / "files" / f"{stored.id}.{ending}").unlink(missing_ok=True)
