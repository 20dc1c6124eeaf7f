"""`python -m tests.data.kill_runs COUNT SEED FOLDER`: `kill -9` at random moments of every stage, and what is left after each.

One process imports everything and does nothing else itself: it forks a child for each run, which starts at once and dies at a
seeded moment, and another that looks at what the dead one left. Parts are of two rows here, so that whatever is divided among
files is. Ends in one JSON line of counts; all but `kills` and `versions` must be 0.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.models.autoencoders.autoencoder_kl
import pyarrow.parquet as pq
import transformers.models.clip.modeling_clip

import pangu.data.encode.chunks
import pangu.data.encode.merging
import pangu.data.encode.stage
import pangu.data.prepare.row_plan
import pangu.data.table.sorting
import pangu.models.text
from pangu.data.card import Card
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.stage import prepare
from pangu.data.rows.image_copy import ImageCopy
from pangu.data.rows.local_cache import made_once
from pangu.data.table.delta import read_rows
from pangu.data.table.versions import log
from pangu.errors import UserError
from pangu.evaluate.eval_set import gather
from pangu.evaluate.protocol import Protocol
from pangu.recipes import tiny
from pangu.storage import Home

COUNT = 10
URLS = 12
"""Rows of the list of URLs, which are all refused, three times each."""


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


def list_card(source: Path, rows: int) -> Card:
    """Of a list of URLs, of which nothing is downloaded."""
    listed = source.with_name(f"{rows}.csv")
    return Card.model_validate(
        {"name": "listed", "source": str(listed), "columns": {"caption_en": "caption"}, "licence": {"name": "CC0"}}
    )


def write_list(source: Path, rows: int) -> None:
    lines = [f"http://10.0.0.1/{row % (URLS // 3)}.png,picture {row}" for row in range(rows)]
    source.with_name(f"{rows}.csv").write_text("\n".join(["url,caption", *lines]))


def lists(source: Path, home: Home, acknowledge: Callable[[str, Any], None]) -> None:
    """A list of URLs, and a longer one whose rows the first knows."""
    for rows in (URLS, 2 * URLS):
        outcome = ingest(list_card(source, rows), home)
        assert outcome.failed == {"refused_address": rows}
        acknowledge(f"list of {rows}", digest_of(home.raw("listed", outcome.ingest_id) / "rows.parquet"))


def choose(home: Home) -> str:
    """The rows that an evaluation would show; a digest of them."""
    found = gather(home, "killed", 0, Protocol(num_inference_steps=1, guidance_scale=1.0, candidates=6), 8)
    return hashlib.sha256(repr((found.prompts, sorted(found.images))).encode()).hexdigest()[:16]


def copy(home: Home) -> str:
    """The local copy of a training that encodes while it trains; a digest of its files."""
    data = EncodedManifest.load(home.encoded("killed", encoded_id(home))).job("texture")
    folder, rows = home.root / "copy", ImageCopy.of(home, "killed", 0, data)
    made_once(folder, rows.write, rows.needed_bytes)
    files = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def encoded_id(home: Home) -> str:
    return str(acknowledgements(home)["encode"])


def digest_of(rows: Path) -> str:
    return hashlib.sha256(repr(pq.read_table(rows).to_pylist()).encode()).hexdigest()[:16]


def everything(source: Path, home: Home, acknowledge: Callable[[str, Any], None]) -> None:
    """Every stage once; each is acknowledged when it has returned."""
    lists(source, home, acknowledge)
    first = ingest(card(source), home)
    acknowledge("ingest", first.ingest_id)
    for stage, make in (
        ("prepare", lambda: prepare(card(source), first.ingest_id, home)),
        ("select", lambda: prepare(card(source, max_caption_length=14), first.ingest_id, home)),
        ("refilter", lambda: refilter(card(source, min_side=30), home, 0)),
        ("unlike", lambda: refilter(card(source, near_duplicates={"max_bits": 12}), home, 0)),
    ):
        outcome = make()
        acknowledge(stage, [outcome.version, outcome.rows])
    encoded = encode("killed", 0, tiny(), home)
    acknowledge("encode", encoded.encode_id)
    acknowledge("choice", choose(home))
    acknowledge("copy", copy(home))


def look(home: Home, acknowledged: dict[str, Any]) -> dict[str, Any]:
    """What can be seen: digests of every version and of the encoded dataset, and what is wrong with them."""
    found: dict[str, Any] = {"versions": {}, "torn": 0, "duplicate": 0, "lost": 0, "said": {}}
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
        if isinstance(value, str):
            found["said"][stage] = value
    return found


def files_of(home: Home) -> set[str]:
    """All files of a home, and of the temporary folder in it."""
    return {path.relative_to(home.root).as_posix() for path in home.root.rglob("*") if path.is_file()}


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

    tempfile.tempdir = str(home.root / "temporary")
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)
    everything(source, home, acknowledge)


def acknowledgements(home: Home) -> dict[str, Any]:
    file = home.root / "acknowledged.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def main(count: int, seed: int, folder: Path) -> dict[str, int]:
    rng, source = random.Random(seed), folder / "source"
    pangu.data.encode.chunks.CHUNK_ROWS, pangu.data.encode.merging.FILE_BYTES = 1, 120_000  # so that parts are joined
    pangu.data.table.sorting.PART_ROWS, pangu.data.prepare.row_plan.FILE_ROWS = 2, 4
    in_child(lambda: write_source(source))
    for rows in (URLS, 2 * URLS):
        write_list(source, rows)
    undisturbed = Home(folder / "undisturbed")
    started = time.monotonic()
    in_child(lambda: run(source, undisturbed))
    duration = time.monotonic() - started
    _, expected = in_child(lambda: look(undisturbed, acknowledgements(undisturbed)))
    counts: Counter[str] = Counter(
        dict.fromkeys(("kills", "torn", "duplicate", "lost", "wrong", "versions", "unfinished", "left"), 0)
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
        left = sorted(files_of(home) ^ files_of(undisturbed))
        counts["left"] += len(left)
        print(*left, sep="\n", end="\n" if left else "", file=sys.stderr)
        counts["versions"] += len(found["versions"])
        shutil.rmtree(home.root)
    return dict(counts)


if __name__ == "__main__":
    # Imported before the first fork: each run would do so again, and most kills would fall into that.
    assert pangu.data.encode.stage and pangu.models.text
    assert diffusers.models.autoencoders.autoencoder_kl and transformers.models.clip.modeling_clip
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
