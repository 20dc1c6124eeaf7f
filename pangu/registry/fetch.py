"""From an alias or a version of `pangu-pair` to a checked folder on this machine. Nothing is unpickled or imported."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from pangu.config import MIDDLE_ROLES, Role
from pangu.contract import GeneratorContract, check_format, check_turns, in_turn
from pangu.errors import UserError
from pangu.registry import tracking
from pangu.registry.manifest import Manifest
from pangu.storage import read_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


class RegisteredPair(BaseModel):
    """One version of `pangu-pair`: what it is made of, and the hash that its files must have."""

    model_config = ConfigDict(frozen=True)

    pair_version: int
    structure_version: int
    texture_version: int
    middle_versions: dict[Role, int] = Field(
        {}, exclude_if=lambda value: not value, description="Of the experts between the two, where there are any"
    )
    sha256: str
    created: int


def resolve(which: str | int = tracking.CHAMPION) -> RegisteredPair:
    """The fixed version that an alias, or a version number, names now.

    Raises:
        UserError: no such alias or version, or a version that `pangu release` did not make.
    """
    return _resolve(tracking.connect(), which)


def fetch_pair(which: str | int, cache_dir: Path) -> Path:
    """Download a released pair into `cache_dir`, check every byte, and return its folder.

    A folder that is there already is checked again instead of downloaded. A killed download leaves only a temporary
    folder, never one that looks complete.

    Raises:
        UserError: unknown version, or files that are missing, added or changed.
    """
    client = tracking.connect()
    pair = _resolve(client, which)
    folder = cache_dir / f"pair-{pair.pair_version}-{pair.sha256[:12]}"
    return _fetch(client, tracking.PAIR, pair.pair_version, folder, lambda found: check_folder(found, pair.sha256))


def fetch_halves(which: str | int, cache_dir: Path) -> dict[Role, Path]:
    """The generator folders of a released pair, each with its contract, fetched and checked like `fetch_pair`.

    Raises:
        UserError: as `fetch_pair`.
    """
    client = tracking.connect()
    pair = _resolve(client, which)
    versions: dict[Role, int] = {
        "structure": pair.structure_version, **pair.middle_versions, "texture": pair.texture_version,
    }  # fmt: skip
    return {
        role: _fetch_generator(client, tracking.model_of(role), version, cache_dir)
        for role, version in versions.items()
    }


def unlike(folders: Sequence[Path], fetched: Path) -> list[Path]:
    """The fetched generator, unless one of the folders holds the same files."""
    content = {Manifest.of(folder).sha256 for folder in folders}
    return [] if Manifest.of(fetched).sha256 in content else [fetched]


def registered_pair(uri: str, cache_dir: Path) -> Path:
    """The folder of a registered pair: `models:/pangu-pair@ALIAS` or `models:/pangu-pair/VERSION`.

    Raises:
        UserError: the URI names something else, or as `fetch_pair`.
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not at:
        name, _, alias = name.partition("/")
    if name != tracking.PAIR or not alias:
        raise UserError(
            f"{uri} is no registered pair; write models:/{tracking.PAIR}@champion or models:/{tracking.PAIR}/3."
        )
    return fetch_pair(alias, cache_dir)


def check_folder(folder: Path, sha256: str) -> None:
    """Every file is the released one, and the two generators make a pair.

    Raises:
        UserError: something differs; the sentence names it.
    """
    Manifest.load(folder, sha256).check(folder)
    check_turns(list(pair_contracts(folder).values()))


def pair_contracts(folder: Path) -> dict[Role, GeneratorContract]:
    """The contracts of all experts, the noisiest first, as the pair folder carries them in its `model_index.json`.

    Raises:
        UserError: the folder is no pair, or a newer PanGu wrote it.
    """
    path = folder / "model_index.json"
    none = UserError(f"{path} carries no contracts of two generators; `pangu evaluate` writes a pair folder.")
    try:
        recorded = dict(read_json(path)["contracts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise none from error
    for role, given in recorded.items():
        check_format(given, f"The contract of {role} in {path}")
    try:
        return in_turn({role: GeneratorContract.model_validate(given) for role, given in recorded.items()})
    except (ValueError, KeyError, TypeError) as error:
        raise none from error


def _resolve(client: "MlflowClient", which: str | int) -> RegisteredPair:
    version = _find(client, which)
    tags = version.tags
    try:
        return RegisteredPair(
            pair_version=int(version.version),
            structure_version=int(tags[tracking.STRUCTURE_VERSION]),
            texture_version=int(tags[tracking.TEXTURE_VERSION]),
            middle_versions={
                role: int(tags[tracking.version_of(role)]) for role in MIDDLE_ROLES if tracking.version_of(role) in tags
            },
            sha256=tags[tracking.CONTENT],
            created=int(version.creation_timestamp) // 1000,
        )
    except KeyError as missing:
        raise UserError(
            f"Version {version.version} of {tracking.PAIR} has no tag {missing}; serve one that `pangu release` made."
        ) from missing


def _find(client: "MlflowClient", which: str | int) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    number = int(which) if str(which).isdigit() else None
    try:
        if number is not None:
            return client.get_model_version(tracking.PAIR, str(number))
        return client.get_model_version_by_alias(tracking.PAIR, str(which))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
        what = f"version {number}" if number is not None else f"alias '{which}'"
        raise UserError(f"{tracking.PAIR} has no {what} in MLflow; `pangu release` registers a pair.") from error


def _fetch_generator(client: "MlflowClient", model: str, version: int, cache_dir: Path) -> Path:
    sha256 = client.get_model_version(model, str(version)).tags[tracking.CONTENT]
    folder = cache_dir / f"{model}-{version}-{sha256[:12]}"
    return _fetch(client, model, version, folder, lambda found: Manifest.load(found, sha256).check(found))


def _fetch(client: "MlflowClient", model: str, version: int, folder: Path, check: Callable[[Path], None]) -> Path:
    """The files of a version of a model in `folder`, which appears as a whole and checked, or not at all."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            downloaded = _download(client, model, version, Path(scratch))
            check(downloaded)
            if not folder.is_dir():
                shutil.move(downloaded, folder)
    check(folder)
    return folder


def _download(client: "MlflowClient", model: str, version: int, scratch: Path) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    source = client.get_model_version_download_uri(model, str(version))
    try:
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(scratch), tracking_uri=client.tracking_uri
        )
    except (MlflowException, OSError) as error:
        raise UserError(f"The files of {model} version {version} can not be read from {source}.") from error
    return Path(path)
