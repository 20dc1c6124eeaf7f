"""`python -m tests.data.kill_runs COUNT SEED FOLDER`: `kill -9` at random moments of every stage, and what is left after each.

One process imports everything and does nothing else itself: it forks a child for each run, which starts at once and dies at a
seeded moment, and another that looks at what the dead one left. Ends in one JSON line of counts; all but `kills` and `versions`
must be 0.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pangu.data.encode.chunks
import pangu.data.encode.merging
import pangu.data.encode.stage
import pangu.models.text
from pangu.data.card import Card
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import read_rows
from pangu.data.table.versions import log
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.storage import Home

COUNT = 10


def write_source(folder: Path) -> None:
    """Drawings with captions, every other one small."""
    folder.mkdir(parents=True)
    for index, one in enumerate(selection(COUNT)):
        (folder / f"{index}.png").write_bytes(render_png(one, 24 if index % 2 else 64))
        (folder / f"{index}.json").write_text(json.dumps({"en": one.caption_en, "zh": one.caption_zh}))


def card(source: Path, **filters: Any) -> Card:
    return Card.model_validate(
        {
            "name": "killed", "source": str(source), "columns": {"caption_en": "en", "caption_zh": "zh"},
            "licence": {"name": "CC0"}, "texture_min_side": 32, "limits": {"rows_per_shard": 4}, "filters": filters,
            "upscale": {"target_side": 48, "upscaler": "lanczos", "min_timestep": 300},
        }
    )  # fmt: skip


def everything(source: Path, home: Home, acknowledge: Callable[[str, Any], None]) -> None:
    """Every stage once; each is acknowledged when it has returned."""
    first = ingest(card(source), home)
    acknowledge("ingest", first.ingest_id)
    for stage, make in (
        ("prepare", lambda: prepare(card(source), first.ingest_id, home)),
        ("select", lambda: prepare(card(source, max_caption_length=14), first.ingest_id, home)),
        ("refilter", lambda: refilter(card(source, min_side=30), home, 0)),
    ):
        outcome = make()
        acknowledge(stage, [outcome.version, outcome.rows])
    encoded = encode("killed", 0, tiny(), home)
    acknowledge("encode", encoded.encode_id)


def look(home: Home, acknowledged: dict[str, Any]) -> dict[str, Any]:
    """What can be seen: digests of every version and of the encoded dataset, and what is wrong with them."""
    found: dict[str, Any] = {"versions": {}, "torn": 0, "duplicate": 0, "lost": 0}
    try:
        entries = log(home, "killed")
    except UserError:
        entries = []
    for entry in entries:
        try:
            rows = read_rows(home, "killed", entry.version)
            keys = rows["key"].to_pylist()
            found["duplicate"] += len(keys) - len(set(keys))
            found["versions"][entry.key] = digest(rows.to_pylist())
        except Exception:
            found["torn"] += 1
    found["duplicate"] += len(entries) - len({entry.key for entry in entries})
    versions = {entry.version for entry in entries}
    for stage, value in acknowledged.items():
        if isinstance(value, list) and value[0] not in versions:
            found["lost"] += 1
        if stage == "ingest" and not (home.raw("killed", value) / "outcome.json").is_file():
            found["lost"] += 1
        if stage == "encode":
            folder = home.encoded("killed", value)
            found["encoded"] = [EncodedManifest.load(folder).rows, files_digest(folder)]
    return found


def digest(rows: list[dict]) -> str:
    ordered = sorted(rows, key=lambda row: row["key"])
    return hashlib.sha256(repr(ordered).encode()).hexdigest()[:16]


def files_digest(folder: Path) -> str:
    """Of the encoded files, which are written in a fixed order with nothing that changes from run to run."""
    files = sorted(path for path in folder.rglob("part-*.parquet"))
    content = [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def in_child(work: Callable[[], Any], kill_after: float | None = None) -> tuple[bool, Any]:
    """Run `work` in a fork; (whether it was killed, what it returned)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            with os.fdopen(write, "w") as sink:
                json.dump(work(), sink)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as source:
        text = source.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True, None
    assert os.WEXITSTATUS(status) == 0, "a run failed by itself"
    return False, json.loads(text)


def run(source: Path, home: Home) -> None:
    """Every stage, each acknowledged in a file that survives its process."""

    def acknowledge(stage: str, value: Any) -> None:
        known = acknowledgements(home) | {stage: value}
        temporary = home.root / ".acknowledged.tmp"
        temporary.write_text(json.dumps(known))
        temporary.replace(home.root / "acknowledged.json")

    home.root.mkdir(parents=True, exist_ok=True)
    everything(source, home, acknowledge)


def acknowledgements(home: Home) -> dict[str, Any]:
    file = home.root / "acknowledged.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def main(count: int, seed: int, folder: Path) -> dict[str, int]:
    rng, source = random.Random(seed), folder / "source"
    pangu.data.encode.chunks.CHUNK_ROWS, pangu.data.encode.merging.FILE_BYTES = 1, 120_000  # so that parts are joined
    in_child(lambda: write_source(source))
    undisturbed = Home(folder / "undisturbed")
    started = time.monotonic()
    in_child(lambda: run(source, undisturbed))
    duration = time.monotonic() - started
    _, expected = in_child(lambda: look(undisturbed, acknowledgements(undisturbed)))
    counts: Counter[str] = Counter(
        dict.fromkeys(("kills", "torn", "duplicate", "lost", "wrong", "versions", "unfinished"), 0)
    )
    number = 0
    while counts["kills"] < count:
        home, number = Home(folder / f"home-{number}"), number + 1
        # More kills than this a home would only repeat its first stage.
        for _ in range(8):
            killed, _ = in_child(
                lambda h=home: run(source, h), rng.uniform(0, duration) if counts["kills"] < count else None
            )
            counts["kills"] += killed
            _, found = in_child(lambda h=home: look(h, acknowledgements(h)))
            for fault in ("torn", "duplicate", "lost"):
                counts[fault] += found[fault]
            counts["wrong"] += sum(expected["versions"].get(key) != value for key, value in found["versions"].items())
            if not killed:
                break
        in_child(lambda h=home: run(source, h))
        _, found = in_child(lambda h=home: look(h, acknowledgements(h)))
        counts["unfinished"] += found != expected
        counts["versions"] += len(found["versions"])
        shutil.rmtree(home.root)
    return dict(counts)


if __name__ == "__main__":
    assert pangu.data.encode.stage and pangu.models.text  # imported before the first fork, which could not afford it
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
