"""`pangu push`: a pair folder with its model card in a repository of the hub, in one commit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pangu.errors import UserError
from pangu.exchange.model_card import licence_of, model_card, pair_contracts_of
from pangu.models.whole import is_whole_pipeline
from pangu.registry.manifest import Manifest

README = "README.md"


class Pushed(BaseModel):
    """What `pangu push` sent: files of one commit, by how many, and where they are now."""

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
) -> Pushed:
    """Make the repository OWNER/NAME if it is not there, and commit the pair's files and a model card to it.

    licence: of the model; None: that of its data. endpoint, token: None: those of the hub's own settings.

    Raises:
        UserError: the folder is no whole pair, the licence is unknown or forbids it, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not is_whole_pipeline(pair):
        raise UserError(f"{pair} is no whole pair folder; name one that `pangu evaluate` or `pangu import` made.")
    if repository.count("/") != 1:
        raise UserError(f"'{repository}' is no repository of the hub; write OWNER/NAME.")
    chosen = licence_of(pair_contracts_of(pair), licence)
    card = model_card(pair, repository, chosen, metrics or {})
    files = sorted(Manifest.of(pair).files)
    additions: list[Any] = [CommitOperationAdd(README, card.encode())]
    additions += [CommitOperationAdd(name, str(pair / name)) for name in files]
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(repository, additions, commit_message=f"{pair.name}, by pangu push")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repository} could not be pushed to: {reason.rstrip('.')}.") from error
    return Pushed(
        repository=f"{api.endpoint}/{repository}", commit=str(done.oid), files=len(additions), licence=chosen.name
    )
