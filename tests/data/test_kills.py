"""`kill -9` at any moment of any stage loses nothing that was acknowledged, doubles nothing and tears nothing.

A few here; `make kills` does a hundred (PANGU_KILLS).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_killed_anywhere_every_stage_goes_on_to_the_same_result(tmp_path: Path) -> None:
    count, seed = os.environ.get("PANGU_KILLS", "3"), os.environ.get("PANGU_KILL_SEED", "1")
    command = [sys.executable, "-m", "tests.data.kill_runs", count, seed, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    print(counts)
    assert counts.pop("kills") >= int(count) and counts.pop("versions") > 0
    assert set(counts.values()) == {0}, (counts, done.stderr[-3000:])
