"""Putting a registered pair behind the HTTP port: resolve once, fetch, check, swap, wait, draw one image.

The running application keeps its replicas: only their `user_config` changes, so requests are answered throughout.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.registry import RegisteredPair, fetch_pair, resolve
from pangu.serve import cluster
from pangu.serve.handoff import Release
from pangu.serve.settings import ServeSettings
from pangu.storage import Home

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

DEFAULT_PORT = 8000
WAIT_S = 300.0
STEPS = ("resolve", "fetch", "serve", "warm up")


class DeployOutcome(BaseModel):
    """Which version answers at `url` now. `already_done`: it did before."""

    model_config = ConfigDict(frozen=True)

    pair_version: int
    url: str
    already_done: bool


def serve_port() -> int:
    """The port of the served API: `$PANGU_SERVE_PORT`, or 8000.

    Raises:
        UserError: the variable is no port.
    """
    text = os.environ.get("PANGU_SERVE_PORT", str(DEFAULT_PORT))
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise UserError(f"PANGU_SERVE_PORT is '{text}'; set it to a port number from 1 to 65535.")
    return int(text)


def deploy(
    home: Home,
    which: str | int = "champion",
    port: int | None = None,
    settings: ServeSettings | None = None,
    report: Reporter = silent,
) -> DeployOutcome:
    """Serve the pair that an alias or a version names.

    Args:
        home: fetched pairs are kept in its `pair-cache/`.
        which: an alias of `pangu-pair`, resolved here and never again, or a version number.
        port: of the HTTP API on the loopback interface; None takes `$PANGU_SERVE_PORT`.
        settings: limits and sizes of the application. None keeps those that it runs with; others restart its replicas.

    Raises:
        UserError: no such release, a damaged one, no Ray, or a port that Serve did not start on.
    """
    port = serve_port() if port is None else port
    url = f"http://{cluster.HOST}:{port}"
    _report(report, 0, str(which))
    pair = resolve(which)
    if served_everywhere(url, pair.sha256):
        return DeployOutcome(pair_version=pair.pair_version, url=url, already_done=True)
    _report(report, 1, f"version {pair.pair_version}")
    release = release_at(pair, fetch_pair(pair.pair_version, home.root / "pair-cache"))
    _report(report, 2, str(release.folder))
    since, client = time.time(), cluster.connect()
    cluster.declare(client, release, port, settings)
    _wait_until_served(client, url, pair.sha256, since)
    _report(report, 3, url)
    warm_up(url, pair.pair_version)
    _report(report, 4, url)
    return DeployOutcome(pair_version=pair.pair_version, url=url, already_done=False)


def read_settings(path: Path) -> ServeSettings:
    """The JSON of a `ServeSettings`; what it leaves out keeps its default.

    Raises:
        UserError: no such file, or a field that does not exist or is out of its bounds.
    """
    try:
        return ServeSettings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can not be read; --settings takes a JSON file of ServeSettings.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {place}: {first['msg']}; the fields are those of ServeSettings.") from error


def release_at(pair: RegisteredPair, folder: Path) -> Release:
    """The message that tells every pool what to load."""
    return Release(folder=folder.absolute(), **pair.model_dump())


def served_everywhere(url: str, sha256: str) -> bool:
    """Whether every part of the application at `url` draws with the release of this content hash."""
    try:
        answer = httpx.get(f"{url}/readyz", timeout=15)
        parts = answer.json()["parts"] if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    return bool(parts) and all(part["sha256"] == sha256 for part in parts.values())


def _wait_until_served(client: "ServeSubmissionClient", url: str, sha256: str, since: float) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if served_everywhere(url, sha256):
            return
        reason = cluster.failure(client, since)
        if reason is not None:
            raise RuntimeError(f"Ray Serve could not start the application: {reason}")
        time.sleep(0.5)
    raise RuntimeError(f"The application was not ready at {url} within {WAIT_S:g} s; see Ray's dashboard.")


def warm_up(url: str, pair_version: int) -> None:
    """One small image through every part: the first request of a user should not be the slow one."""
    body = {"prompt": "a red circle", "num_inference_steps": 2, "seed": 0}
    answer = httpx.post(f"{url}/v1/images/generations", json=body, timeout=120)
    if answer.status_code != 200:
        raise RuntimeError(f"Version {pair_version} is served, but its first image failed: {answer.text[:500]}")


def _report(report: Reporter, done: int, what: str) -> None:
    step = STEPS[done] if done < len(STEPS) else "done"
    report(Progress(stage="deploy", done=done, total=len(STEPS), unit="steps", facts={"step": step, "what": what}))
