"""`FOLDER declare` puts a pair behind the head's loopback; `FOLDER requests MOST_S AFTER` asks for images until all is well.

Runs on the head. Ends in one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import httpx

from pangu.registry.manifest import Manifest
from pangu.serve import ray_cluster
from pangu.serve.deploy import Stage
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.parts import release_of
from pangu.serve.settings import PoolSettings, ServeSettings
from tests.nodes.machines import wait_until

PORT = 8000
URL = f"http://{ray_cluster.HOST}:{PORT}"
POOL = PoolSettings(num_cpus=0.4, threads=1)
SETTINGS = ServeSettings(structure=POOL, texture=POOL, decoder=POOL, timeout_s=20.0)
"""Two pools fill a machine of one slot but for the gateway, so that three machines share them."""


def declare(folder: Path) -> dict[str, float]:
    """Seconds until Serve answers with an image."""
    began = time.monotonic()
    Manifest.of(folder).save(folder)
    release = release_of(folder)
    wait_until("the dashboard", lambda: ray_cluster.connect() is not None, 300)
    Stage(ray_cluster.connect(), URL, PORT, SETTINGS).show(ReleaseRouting(champion=release), release.sha256)
    wait_until("an image", draw, 120)
    return {"seconds": round(time.monotonic() - began, 1)}


def draw() -> bool:
    body = {"prompt": "a red apple", "num_inference_steps": 4}
    return httpx.post(f"{URL}/v1/images/generations", json=body, timeout=30).status_code == 200


def requests(most_s: float, after: int) -> dict[str, float]:
    """One request after the other, until `after` in a row succeeded behind the last failure, or for `most_s`."""
    began, answered, failed, in_a_row = time.monotonic(), 0, 0, 0
    last_good, outage, down = began, 0.0, False
    while time.monotonic() - began < most_s and not (failed and in_a_row >= after):
        try:
            good = draw()
        except httpx.HTTPError:
            good = False
        now = time.monotonic()
        if good:
            outage = max(outage, now - last_good) if down else outage
            answered, in_a_row, last_good, down = answered + 1, in_a_row + 1, now, False
        else:
            failed, in_a_row, down = failed + 1, 0, True
        time.sleep(0.5)
    return {"answered": answered, "failed": failed, "outage_s": round(outage, 1), "ends_well": not down}


def main(folder: str, what: str, *arguments: str) -> None:
    found = declare(Path(folder)) if what == "declare" else requests(float(arguments[0]), int(arguments[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
