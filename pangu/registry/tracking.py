"""The connection to MLflow and the names under which releases are registered there."""

import os
import re
from typing import TYPE_CHECKING

from pangu.compatibility import check_server
from pangu.config import Role
from pangu.errors import UserError
from pangu.retrying import retrying

if TYPE_CHECKING:
    import httpx
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PAIR = "pangu-pair"
EXPERIMENT = "pangu-releases"
CHAMPION, PREVIOUS = "champion", "previous"

# Tags of model versions and of the run that holds their files.
CONTENT = "pangu.sha256"


def model_of(role: Role) -> str:
    """The registered model of the experts of a role."""
    return f"pangu-{role.replace('_', '-')}"


def version_of(role: Role) -> str:
    """The tag of a pair that says which version of that model it is made of."""
    return f"pangu.{role}_version"


STRUCTURE, TEXTURE = model_of("structure"), model_of("texture")
STRUCTURE_VERSION, TEXTURE_VERSION = version_of("structure"), version_of("texture")


def connect() -> "MlflowClient":
    """A client of the MLflow server that `MLFLOW_TRACKING_URI` names.

    Raises:
        UserError: the variable is not set, nobody answers there, or it is a server that refuses us or is too old.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UserError("MLFLOW_TRACKING_URI is not set; `pangu up` starts an MLflow server and prints its address.")
    check_server_at(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def check_server_at(uri: str) -> None:
    """MLflow itself would retry for minutes before it says that nobody is there.

    Raises:
        UserError: nobody is, or who is there refuses us, is another server, or is too old.
    """
    if not uri.startswith(("http://", "https://")):
        return
    import httpx

    try:
        answer = retrying(lambda: _version(uri), (httpx.TransportError,))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(f"No MLflow server answers at {uri} ({error}); start it with `pangu up`.") from error
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise UserError(
            f"The MLflow server at {uri} refuses us; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN."
        )
    if not answer.is_success:
        raise UserError(f"What answers at {uri} is no MLflow server ({answer.status_code}); check MLFLOW_TRACKING_URI.")
    check_server("mlflow", uri, answer.text)


def _version(uri: str) -> "httpx.Response":
    import httpx  # whoever only loads a pair needs none

    return httpx.get(f"{uri.rstrip('/')}/version", timeout=30, headers=_token(), auth=_login(), follow_redirects=True)


def _token() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _login() -> tuple[str, str] | None:
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    return (user, password) if user else None


def check_alias(alias: str) -> None:
    """Raises UserError if MLflow, or `pangu deploy`, would read `alias` as something else."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", alias) or re.fullmatch(r"latest|v[0-9]+", alias, re.IGNORECASE):
        raise UserError(f"'{alias}' can not be an alias; use a word such as '{CHAMPION}' or 'candidate'.")


def version_with(client: "MlflowClient", model: str, sha256: str) -> "ModelVersion | None":
    """The oldest version of `model` whose content has this hash, if there is one."""
    found = client.search_model_versions(f"name = '{model}' and tags.`{CONTENT}` = '{sha256}'")
    return min(found, key=lambda version: int(version.version), default=None)


def alias_version(client: "MlflowClient", model: str, alias: str) -> str | None:
    """The version that `alias` of `model` points to, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(model, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            return None
        raise
