"""Copies of checkpoints at any fsspec URI, made in the background, and fetched where a node was lost with its disk.

At the URI a checkpoint is a folder RUN/step-NNNNNN like the local one. Its `state.json` comes last and names the hash of every
other file, so that a torn copy is never taken for a whole one. Nothing here ends or holds up a training.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pangu.contract import CONTRACT_FILE
from pangu.errors import UserError
from pangu.storage import sha256_of
from pangu.train.checkpoint import KEEP, CheckpointState, latest_checkpoint

STATE = "state.json"
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Between attempts at one checkpoint; then it has failed for good."""
PATIENCE_S = 1800.0
"""How long the end of a training waits for its last copy."""

log = logging.getLogger(__name__)


class Uploader:
    """Copies checkpoints to `uri`/`run_name`, one at a time; where it lags, the newest wins.

    spool: a folder beside the checkpoints, where their files are linked until they are copied: pruning does not pull them away.
    """

    def __init__(self, uri: str, run_name: str, spool: Path, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._files, self._target = open_uri(uri, run_name)
        self._uri, self._spool, self._pauses_s = f"{uri.rstrip('/')}/{run_name}", spool, pauses_s
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._generator: Path | None = None
        self._ending = False
        self._failed = ""
        shutil.rmtree(spool, ignore_errors=True)
        self._thread = threading.Thread(target=self._follow, name="upload", daemon=True)
        self._thread.start()

    def __call__(self, checkpoint: Path) -> None:
        """Have `checkpoint` copied; returns at once."""
        try:
            spooled = link_folder(checkpoint, self._spool / checkpoint.name)
        except OSError as error:
            self._failed = f"Checkpoint {checkpoint.name} could not be kept for its copy to {self._uri}: {error}"
            log.warning(self._failed)
            return
        with self._changed:
            older, self._waiting = self._waiting, spooled
            self._changed.notify()
        if older is not None and older != spooled:
            shutil.rmtree(older, ignore_errors=True)

    def finish(self, patience_s: float = PATIENCE_S, generator: Path | None = None) -> str:
        """Wait for the last copies, at the very end that of the finished `generator` folder; "" or the sentence that says what
        was not copied."""
        with self._changed:
            self._ending, self._generator = True, generator
            self._changed.notify()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            return f"The last copy to {self._uri} took longer than {patience_s:.0f} s; everything is kept here."
        shutil.rmtree(self._spool, ignore_errors=True)
        return self._failed

    def _follow(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._ending)
                checkpoint, self._waiting = self._waiting, None
            if checkpoint is None:
                break
            self._copy_patiently(checkpoint, f"Checkpoint {checkpoint.name}", copy_checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)
        if self._generator is not None:
            self._copy_patiently(self._generator, "The finished generator", copy_generator)

    def _copy_patiently(self, folder: Path, name: str, copy: Callable[[Any, Path, str], None]) -> None:
        """Try until it succeeds, a newer one waits, or the pauses are used up."""
        for pause_s in (*self._pauses_s, None):
            try:
                copy(self._files, folder, f"{self._target}/{folder.name}")
                self._failed = ""
                with contextlib.suppress(Exception):  # the next one prunes again
                    prune(self._files, self._target)
                return
            except Exception as error:
                self._failed = f"{name} could not be copied to {self._uri} ({_first_line(error)}); it is kept here."
            with self._changed:
                if pause_s is None or self._changed.wait_for(lambda: self._waiting is not None, pause_s):
                    break
        log.warning(self._failed)


def open_uri(uri: str, run_name: str = "") -> tuple[Any, str]:
    """The filesystem of an fsspec URI and the path of the run there.

    Raises:
        UserError: fsspec knows no such protocol, or the package for it is not installed.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"watching.upload_to is '{uri}', which cannot be opened ({_first_line(error)}); name an fsspec URI such as "
            f"file:///backup or s3://bucket/runs, and install the package of its protocol."
        ) from error
    return files, f"{path.rstrip('/')}/{run_name}".rstrip("/")


def link_folder(source: Path, target: Path) -> Path:
    """The same files under another name: hard links where the disk has them, copies elsewhere."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)
    return target


def copy_checkpoint(files: Any, checkpoint: Path, target: str) -> None:
    """Copy a checkpoint's folder to `target`: the tensors first, the state that makes it whole last."""
    state = (checkpoint / STATE).read_bytes()
    if files.exists(f"{target}/{STATE}"):
        if files.cat_file(f"{target}/{STATE}") == state:
            return
        files.rm_file(f"{target}/{STATE}")  # what it names is about to change
    files.makedirs(target, exist_ok=True)
    for path in sorted(checkpoint.iterdir()):
        if path.name != STATE:
            files.put_file(str(path), f"{target}/{path.name}")
    files.pipe_file(f"{target}/{STATE}", state)


def copy_generator(files: Any, generator: Path, target: str) -> None:
    """Copy a generator's folder to `target`; the contract, without which nobody loads it, last."""
    paths = [path for path in generator.rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: (path == generator / CONTRACT_FILE, path)):
        place = f"{target}/{path.relative_to(generator).as_posix()}"
        files.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        files.put_file(str(path), place)


def prune(files: Any, target: str) -> None:
    """Remove all but the newest whole copies, and torn ones that are older than those."""
    folders = _steps(files, target)
    whole = [folder for folder in folders if files.exists(f"{folder}/{STATE}")][:KEEP]
    for folder in folders[folders.index(whole[-1]) + 1 :] if len(whole) == KEEP else ():
        if files.exists(f"{folder}/{STATE}"):
            files.rm_file(f"{folder}/{STATE}")  # first: what remains of a removal is not whole
        files.rm(folder, recursive=True)


def fetch_missing(uri: str, run_name: str, checkpoints: Path) -> Path | None:
    """Fetch the newest whole copy, if the local folder has no whole checkpoint; returns where it lies now.

    Raises:
        UserError: the URI cannot be read, so nobody knows whether a run would begin again that had gone far.
    """
    if latest_checkpoint(checkpoints) is not None:
        return None
    files, target = open_uri(uri, run_name)
    try:
        for folder in _steps(files, target):
            fetched = _fetch(files, folder, checkpoints)
            if fetched is not None:
                return fetched
    except Exception as error:
        raise UserError(
            f"watching.upload_to is '{uri}', which cannot be read ({_first_line(error)}); make it readable, or take it out of "
            f"the recipe to begin without its copies."
        ) from error
    return None


def _fetch(files: Any, folder: str, checkpoints: Path) -> Path | None:
    """One checkpoint into place as a whole, or None if the copy is torn."""
    try:
        text = files.cat_file(f"{folder}/{STATE}")
        state = CheckpointState.model_validate(json.loads(text))
    except (FileNotFoundError, json.JSONDecodeError, ValidationError):
        return None
    name = folder.rsplit("/", 1)[-1]
    temporary = checkpoints / f".{name}.fetch"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file, expected in state.files.items():
        try:
            files.get_file(f"{folder}/{file}", str(temporary / file))
        except FileNotFoundError:
            return None
        if sha256_of(temporary / file) != expected:
            return None
    (temporary / STATE).write_bytes(text)
    shutil.rmtree(checkpoints / name, ignore_errors=True)
    return temporary.rename(checkpoints / name)


def _steps(files: Any, target: str) -> list[str]:
    """Folders of checkpoints at `target`, the newest first."""
    files.invalidate_cache()
    try:
        found = files.ls(target, detail=False)
    except FileNotFoundError:
        return []
    return sorted((path.rstrip("/") for path in found if "/step-" in path), reverse=True)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
