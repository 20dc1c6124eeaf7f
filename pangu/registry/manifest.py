"""The list of files of a released folder with their SHA-256, and the refusal of anything that is not listed.

It describes folders on a disk; MLflow is not involved.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Self

from pydantic import Field, field_validator

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.storage import read_json, sha256_of, write_json

MANIFEST_FILE = "manifest.json"
MLFLOW_FILES = (
    "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json", "serving_input_example.json",
)  # fmt: skip
"""What MLflow itself reads beside the released files. Nothing here reads them, and they are no part of a pair."""
LEFT_BY_LOADER = "registered_model_meta"
"""What MLflow writes into a folder that it fetched as a version of a registered model."""
# Weights, configuration, tokenizer files. Nothing in this list can run code when it is read.
SAFE_SUFFIXES = (".safetensors", ".json", ".txt", ".model")


class Manifest(Frozen):
    """Relative POSIX path -> SHA-256 (64 hex digits) of every file of a folder, except the manifest itself."""

    files: dict[str, str] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or path.suffix not in SAFE_SUFFIXES:
                raise ValueError(
                    f"'{name}' may not be part of a release; it takes only {', '.join(SAFE_SUFFIXES)} files"
                )
        return files

    @property
    def sha256(self) -> str:
        """Hash of the whole content: equal files under equal names, equal hash."""
        canonical = json.dumps(self.files, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Hash every file below `folder`.

        Raises:
            UserError: the folder does not exist, is empty, or holds a file that a server would have to unpickle or run.
        """
        paths = files_of(folder)
        if not paths:
            raise UserError(f"{folder} holds no files, so there is nothing to release; `pangu evaluate` writes a pair.")
        for name in paths:
            if PurePosixPath(name).suffix not in SAFE_SUFFIXES:
                raise UserError(
                    f"{folder / name} may not be released: only {', '.join(SAFE_SUFFIXES)} files are served."
                )
        return cls(files={name: sha256_of(path) for name, path in paths.items()})

    @classmethod
    def load(cls, folder: Path, sha256: str) -> Self:
        """Read the manifest that lies in `folder` and check that it is the one whose hash is `sha256`.

        Raises:
            UserError: it is missing, malformed or another one.
        """
        path = folder / MANIFEST_FILE
        try:
            manifest = cls.model_validate(read_json(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a readable manifest ({type(error).__name__}); release the pair again."
            ) from error
        if manifest.sha256 != sha256:
            raise UserError(f"{path} was changed: its hash is {manifest.sha256[:12]}, the registry says {sha256[:12]}.")
        return manifest

    def save(self, folder: Path) -> None:
        write_json(folder / MANIFEST_FILE, self.model_dump(mode="json"))

    def check(self, folder: Path, below: tuple[str, ...] = ("",)) -> None:
        """Compare the files of `folder`, or of those subfolders `below`, with this list.

        Raises:
            UserError: a file is missing, was added, or has other bytes; the sentence names the first one.
        """
        prefixes = tuple(f"{part}/" if part else "" for part in below)
        present = files_of(folder)
        for name in sorted(present.keys() | self.files.keys()):
            if name.startswith(prefixes):
                self.check_file(folder, name)

    def check_file(self, folder: Path, name: str) -> None:
        """Compare one file with this list; raises UserError like `check`."""
        path = folder / name
        if name not in self.files:
            raise UserError(f"{path} is not in the manifest of the release; delete it or fetch again.")
        if not path.is_file():
            raise UserError(f"{path} is missing from the release; delete the folder to fetch it again.")
        if sha256_of(path) != self.files[name]:
            raise UserError(f"{path} differs from what was released; delete the folder to fetch it again.")


def files_of(folder: Path) -> dict[str, Path]:
    """Relative POSIX path -> path of every file below `folder`, except the manifest and MLflow's own; sorted."""
    beside = (MANIFEST_FILE, *MLFLOW_FILES, LEFT_BY_LOADER)
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in beside
    }
