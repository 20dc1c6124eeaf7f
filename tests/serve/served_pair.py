"""What the serving tests share: a running application, and tiny pairs to serve."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pangu.config import ROLES, Recipe
from pangu.stack import Stack
from pangu.storage import Home


@dataclass(frozen=True)
class Served:
    """The running application: `url` answers with version `first`; version `second` is registered and not served."""

    url: str
    first: int
    second: int
    home: Home
    stack: Stack

    def draw(self, prompt: str = "a red apple", timeout_s: float = 120, **fields: Any) -> httpx.Response:
        body = {"prompt": prompt, **fields}
        return httpx.post(f"{self.url}/v1/images/generations", json=body, timeout=timeout_s)

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
