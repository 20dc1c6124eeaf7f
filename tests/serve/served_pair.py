"""What the serving tests share: a running application, and tiny pairs to serve."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pytest import MonkeyPatch

from pangu.config import ROLES, Recipe
from pangu.stack import Stack
from pangu.storage import Home, write_json
from tests.serve.local import metric_at


@dataclass(frozen=True)
class Served:
    """The running application: `url` answers with version `first`; version `second` is registered and not served.

    mortal: the deployment with the texture half, of which replicas are killed. replicas: of all deployments.
    """

    url: str
    first: int
    second: int
    home: Home
    stack: Stack
    mortal: str
    replicas: int

    def draw(self, prompt: str = "a red apple", timeout_s: float = 120, **fields: Any) -> httpx.Response:
        body = {"prompt": prompt, **fields}
        return httpx.post(f"{self.url}/v1/images/generations", json=body, timeout=timeout_s)

    def metric(self, line: str) -> float:
        """As that of a `LocalServer`."""
        return metric_at(self.url, line)

    def dashboard(self, method: str) -> httpx.Response:
        """Ray's own view of what Serve runs (GET), or its end (DELETE)."""
        headers = {"Authorization": f"Bearer {self.stack.token}"}
        url = f"{self.stack.ray_dashboard_url}/api/serve/applications/"
        return httpx.request(method, url, headers=headers, timeout=60).raise_for_status()


def pangu_deploy(which: str | int, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`pangu deploy` as a user would run it. Its own process also because Ray reads its token variables only once."""
    selector = ["--alias", which] if isinstance(which, str) else ["--pair-version", str(which)]
    command = [sys.executable, "-m", "pangu", "deploy", *selector, *options]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=400)


def run_pangu(*arguments: str) -> dict[str, Any]:
    """The outcome of a command that is expected to succeed."""
    command = [sys.executable, "-m", "pangu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def run_deploy(which: str | int, *options: str) -> dict[str, Any]:
    """The outcome of a deployment that is expected to succeed."""
    done = pangu_deploy(which, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


PROPOSED = {"en": ["red apple"], "zh": ["红苹果"]}


def write_pair(folder: Path, recipe: Recipe, seed: int) -> tuple[Path, Path, Path]:
    """(pair, structure, texture) folders of an untrained pair."""
    from pangu.pipelines.assemble import save_pair, untrained_pair

    pair = untrained_pair(recipe, seed)
    pair.register_to_config(prompts=PROPOSED)
    save_pair(pair, folder / "pair")
    for role in ROLES:
        pair.components[role].save_pretrained(folder / role)
        pair.contract(role).save(folder / role)
    return folder / "pair", folder / "structure", folder / "texture"


@contextmanager
def served_as(stack: Stack, folder: Path, settings: dict[str, Any], mortal: str, replicas: int) -> Iterator[Served]:
    """`champion` is served with these settings beside those of all; another version, of other weights, is registered.

    mortal, replicas: see `Served`; they follow from the settings.
    """
    from pangu.recipes import tiny
    from pangu.registry import release

    with MonkeyPatch.context() as patch:
        for name, value in stack.environment().items():
            patch.setenv(name, value)
        versions = []
        for seed in (2, 1):
            folders = write_pair(folder / f"pair-{seed}", tiny(), seed)
            evaluation = {
                "pair_id": str(seed),
                "pair": str(folders[0]),
                "metrics": {},
                "protocol": "none",
                "protocol_hash": "0",
            }
            versions.append(release(*folders, evaluation).pair_version)
        common = {"max_in_flight": 6, "structure": {"replicas": 2}}
        write_json(folder / "settings.json", common | settings)
        outcome = run_deploy("champion", "--settings", str(folder / "settings.json"))
        assert outcome["pair_version"] == versions[1]
        application = Served(outcome["url"], versions[1], versions[0], Home(stack.home), stack, mortal, replicas)
        yield application
        application.dashboard("DELETE")
