"""Putting a registered pair behind the HTTP port: resolve once, fetch, check, load, draw one image, switch, free.

The running application keeps its replicas: only their `user_config` changes, so requests are answered throughout.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import BaseModel, ConfigDict

from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.registry import RegisteredPair, fetch_pair, resolve
from pangu.registry.manifest import Manifest
from pangu.serve import ray_cluster
from pangu.serve.inference.messages import Release, ReleaseRouting
from pangu.serve.inference.parts import capabilities_of, part_hashes, weight_bytes
from pangu.serve.settings import Layout, ServeSettings
from pangu.storage import Home, write_atomically, write_json

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

DEFAULT_PORT = 8000
WAIT_S = 300.0
POLL_S = 0.2
STEPS = ("resolve", "fetch", "load", "switch", "free")


class DeployOutcome(BaseModel):
    """Which version answers at `url` now. `already_done`: it did before. `canary_share`: of the requests that it answers."""

    model_config = ConfigDict(frozen=True)

    pair_version: int
    url: str
    already_done: bool
    canary_share: float = 1.0


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
    canary: float | None = None,
    report: Reporter = silent,
) -> DeployOutcome:
    """Serve the pair that an alias or a version names.

    Args:
        home: fetched pairs are kept in its `pair-cache/`; those that nothing needs any more are deleted.
        which: an alias of `pangu-pair`, resolved here and never again, or a version number.
        port: of the HTTP API; None takes `$PANGU_SERVE_PORT`.
        settings: limits and sizes of the application. None keeps those that it runs with; others restart its replicas.
        canary: the share of requests in [0, 1] that the pair answers beside the running one; None makes it the one.

    Raises:
        UserError: no such release, a damaged one, no Ray, a port that Serve did not start on, or a canary beside nothing.
    """
    port = serve_port() if port is None else port
    url = f"http://{ray_cluster.HOST}:{port}"
    _report(report, 0, str(which))
    pair = resolve(which)
    if settings is None and canary is None and served_alone(url, pair.sha256):
        return DeployOutcome(pair_version=pair.pair_version, url=url, already_done=True)
    _report(report, 1, f"version {pair.pair_version}")
    cache = home.root / "pair-cache"
    release = release_at(pair, fetch_pair(pair.pair_version, cache))
    client = ray_cluster.connect()
    old_settings, old, old_layout = ray_cluster.running(client)
    if old is not None and not all(each.folder.is_dir() for each in old.releases):
        old = None
    if canary is not None and old is None:
        raise UserError("Nothing is served yet, so there is nothing to be a canary of; deploy without --canary first.")
    final = target(release, old, canary)
    wanted = settings or old_settings or ServeSettings()
    held = [weight_bytes(each.folder) for each in (*final.releases, *(old.releases if old else ()))]
    layout = wanted.layout_of(max(held), old_layout if settings is None else None)
    stage = Stage(client, url, port, wanted, layout)
    _report(report, 2, str(release.folder))
    if old is not None:
        # Every part holds the release before one request is sent to it, and the old one until none is.
        try:
            stage.show(old.model_copy(update={"held": (release,)}), release.sha256)
        except RuntimeError:
            ray_cluster.declare(client, old, port, wanted, layout if settings is not None else old_layout or layout)
            raise
        _report(report, 3, url)
        stage.show(final.model_copy(update={"held": old.releases}), release.sha256)
        _report(report, 4, url)
    stage.show(final, release.sha256)
    remember(home, final.champion.pair_version, stage.settings)
    prune(cache, [*final.releases, *(old.releases if old else ())])
    _report(report, 5, url)
    share = 1.0 if canary is None else canary
    return DeployOutcome(pair_version=pair.pair_version, url=url, already_done=False, canary_share=share)


def remember(home: Home, pair_version: int, settings: ServeSettings) -> None:
    """Write down what serves the same champion again, for when Ray was restarted: `served.json`, arguments of `pangu`."""
    path = home.root / "served-settings.json"
    write_atomically(path, settings.model_dump_json().encode())
    arguments = ["deploy", "--pair-version", str(pair_version), "--settings", str(path)]
    write_json(home.root / "served.json", {"arguments": arguments})


def target(release: Release, old: ReleaseRouting | None, canary: float | None) -> ReleaseRouting:
    """The routing in which `release` answers: everything, or a share beside the champion of `old`."""
    if canary is None or old is None:
        return ReleaseRouting(champion=release)
    return ReleaseRouting(champion=old.champion, canary=release, canary_share=canary)


class Stage:
    """The running application, shown one routing after the other."""

    def __init__(
        self,
        client: "ServeSubmissionClient",
        url: str,
        port: int,
        settings: ServeSettings,
        layout: Layout | None = None,
    ) -> None:
        self._client, self._url, self._port, self.settings = client, url, port, settings
        self._layout = layout or settings.layout_of()

    def show(self, routing: ReleaseRouting, sha256: str) -> None:
        """Declare `routing`, and wait until every replica runs as declared, and has drawn with the release of that hash.

        Raises:
            UserError: Serve listens on another port.
            RuntimeError: Serve gave up, or the time did.
        """
        before, deadline = ray_cluster.stamp_of(ray_cluster.application(self._client)), time.monotonic() + WAIT_S
        ray_cluster.declare(self._client, routing, self._port, self.settings, self._layout)
        while time.monotonic() < deadline:
            application = ray_cluster.application(self._client)
            if ray_cluster.settled(application, before) and _shows(state_of(self._url), routing, sha256):
                return
            reason = ray_cluster.failure(application, before)
            if reason is not None:
                raise RuntimeError(f"Ray Serve could not start the application: {reason}")
            time.sleep(POLL_S)
        raise RuntimeError(f"The application was not ready at {self._url} within {WAIT_S:g} s; see Ray's dashboard.")


def prune(cache: Path, needed: Sequence[Release], spare: int = 2) -> list[Path]:
    """Delete fetched pairs beyond those that are needed and the `spare` newest others; returns what went."""
    kept = {release.folder.name for release in needed}
    others = [path for path in cache.glob("pair-*") if path.is_dir() and path.name not in kept]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[spare:]:
        shutil.rmtree(path, ignore_errors=True)
    return others[spare:]


def release_at(pair: RegisteredPair, folder: Path) -> Release:
    """The message that tells every pool what to load."""
    parts = part_hashes(folder, Manifest.load(folder, pair.sha256))
    return Release(folder=folder.absolute(), parts=parts, offers=capabilities_of(folder), **pair.model_dump())


def state_of(url: str) -> dict[str, Any]:
    """What `/readyz` says, ready or not; empty if nobody answers."""
    try:
        state = httpx.get(f"{url}/readyz", timeout=15).json()
        return state if isinstance(state, dict) and "parts" in state else {}
    except (httpx.HTTPError, ValueError):
        return {}


def served_alone(url: str, sha256: str) -> bool:
    """Whether the application at `url` draws with the release of this content hash, and with no other."""
    state = state_of(url)
    return bool(state.get("ready")) and state["champion"]["sha256"] == sha256 and state["canary"] is None


def _shows(state: dict[str, Any], routing: ReleaseRouting, sha256: str) -> bool:
    """Whether the gateway answers with `routing`, and every part holds the release of that hash and has drawn with it."""
    if not state or (state["champion"] or {}).get("sha256") != routing.champion.sha256:
        return False
    canary = routing.canary.sha256 if routing.canary else None
    if (state["canary"] or {}).get("sha256") != canary or state["canary_share"] != routing.canary_share:
        return False
    return sha256 in state["warmed"] and all(sha256 in held for held in state["parts"].values())


def _report(report: Reporter, done: int, what: str) -> None:
    step = STEPS[done] if done < len(STEPS) else "done"
    report(Progress(stage="deploy", done=done, total=len(STEPS), unit="steps", facts={"step": step, "what": what}))
