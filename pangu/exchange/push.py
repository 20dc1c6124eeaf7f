"""`pangu push` and `pangu dataset push`: a pair or a dataset version with its card in a repository of the hub, in one commit."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pangu.data.table.dataset_card import README, licence_of_data
from pangu.data.table.delta import latest_version
from pangu.data.table.export import export_parquet
from pangu.errors import UserError
from pangu.exchange.model_card import licence_of, model_card, pair_contracts_of
from pangu.exchange.pipeline_file import PIPELINE_FILE, pipeline_file
from pangu.exchange.widget_pictures import widget_pictures
from pangu.models.whole import is_whole_pipeline
from pangu.progress import Reporter, silent
from pangu.registry.manifest import Manifest
from pangu.storage import Home


class Pushed(BaseModel):
    """What was sent: files of one commit, by how many, and where they are now."""

    model_config = ConfigDict(frozen=True)

    repository: str
    commit: str
    files: int
    licence: str


def push_pair(
    pair: Path,
    repository: str,
    licence: str | None = None,
    metrics: Mapping[str, float] | None = None,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    grid: Path | None = None,
) -> Pushed:
    """Make the repository OWNER/NAME if it is not there, and commit the pair's files and a model card to it.

    licence: of the model; None: that of its data. endpoint, token: None: those of the hub's own settings.
    grid: of an evaluation; its first pictures are those of the card.

    Raises:
        UserError: the folder is no whole pair, the licence is unknown or forbids it, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd

    if not is_whole_pipeline(pair):
        raise UserError(f"{pair} is no whole pair folder; name one that `pangu evaluate` or `pangu import` made.")
    chosen = licence_of(pair_contracts_of(pair), licence)
    check_repository(repository)
    shown = widget_pictures(grid)
    texts = {README: model_card(pair, repository, chosen, metrics or {}, shown), PIPELINE_FILE: pipeline_file(pair)}
    additions: list[Any] = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
    additions += [CommitOperationAdd(each.place, each.png) for each in shown]
    additions += [CommitOperationAdd(name, str(pair / name)) for name in sorted(Manifest.of(pair).files)]
    place, commit = send(repository, "model", additions, f"{pair.name}, by pangu push", private, endpoint, token)
    return Pushed(repository=place, commit=commit, files=len(additions), licence=chosen.name)


def push_dataset(
    home: Home,
    name: str,
    repository: str,
    version: int | None = None,
    licence: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    report: Reporter = silent,
) -> Pushed:
    """The same of a dataset version: Parquet files by split that show their pictures, and a card with licence and statistics.

    Raises:
        UserError: no such version, the licence of the data or of a row is unknown or forbids it, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd

    check_repository(repository)
    pinned = latest_version(home, name) if version is None else version
    chosen = licence_of_data(home, name, pinned, licence)
    with tempfile.TemporaryDirectory(dir=home.root) as scratch:
        export_parquet(home, name, pinned, Path(scratch), report=report, licence=chosen)
        files = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        additions = [CommitOperationAdd(path.relative_to(scratch).as_posix(), str(path)) for path in files]
        message = f"{name}, version {pinned}, by pangu dataset push"
        place, commit = send(repository, "dataset", additions, message, private, endpoint, token)
    return Pushed(repository=place, commit=commit, files=len(additions), licence=chosen.name)


REFUSALS = {
    401: "the hub knows no such token; log in by `hf auth login`, or set HF_TOKEN",
    403: "this token may not write there; take one with write access to it",
    404: "the hub has no such owner, or hides it from this token",
    409: "somebody else changes it at this moment, or it is there as something else; look at it, and push again",
    413: "the hub finds it too large",
    429: "the hub asks for fewer requests; push again later",
}
"""What a hub's status means for whoever pushes."""


def why(error: Exception) -> str:
    """A clause that says why the hub refused."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in REFUSALS:
        return f"{REFUSALS[status]} ({status})"
    if isinstance(status, int) and status >= 500:
        return f"the hub is in trouble; push again later ({status})"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def check_repository(repository: str) -> None:
    """Raises UserError for what can be no name of a repository."""
    if repository.count("/") != 1:
        raise UserError(f"'{repository}' is no repository of the hub; write OWNER/NAME.")


def send(
    repository: str,
    kind: str,
    additions: Sequence[Any],
    message: str,
    private: bool,
    endpoint: str | None,
    token: str | None,
) -> tuple[str, str]:
    """Make the repository if it is not there and commit all files at once; returns its address and the commit's id.

    kind: "model" or "dataset".

    Raises:
        UserError: the hub refuses, or is not reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        done = api.create_commit(repository, additions, commit_message=message, repo_type=kind)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(f"{repository} could not be pushed to: {why(error)}.") from error
    return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}", str(done.oid)
