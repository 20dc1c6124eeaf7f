"""Prepare: from raw shards to one dataset version. Decode, drop exact duplicates, upscale the small ones, commit.

Works shard by shard: each leaves its Parquet files and a manifest, and one transaction shows them all. A killed run
leaves nothing visible, and the next one goes on after the last manifest. Knows nothing of downloads or training.
"""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pangu.config import Frozen
from pangu.data.card import Card
from pangu.data.images import BadImage, decode_rgb, encode_png
from pangu.data.ingest import only_one
from pangu.data.raw import RawFolder
from pangu.data.table import SCHEMA, DataFile, commit, is_committed, version_of, write_part
from pangu.data.upscale import Upscaler, make_upscaler, upscale_to
from pangu.diffusion.presets import presets_for
from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, read_json, write_json

CODE_VERSION = 2
"""Raise it whenever the same card and ingest would give other rows."""


class PrepareOutcome(Frozen):
    """The version, and what became of every image that ingest called ok: ok = rows + the sum of `dropped`."""

    dataset: str
    version: int
    rows: int
    originals: int
    upscaled: int
    held_out: int
    dropped: dict[str, int]
    key: str
    already_done: bool = False


class Part(Frozen):
    """The manifest of one finished shard."""

    files: tuple[DataFile, ...]
    dropped: dict[str, int]
    held_out: int


@dataclass(frozen=True)
class Plan:
    """Which rows of which shard are kept before anything is decoded, and what was dropped to get there."""

    rows: dict[int, dict[int, dict[str, Any]]]
    dropped: Counter[str]


def prepare(card: Card, ingest_id: str, home: Home, report: Reporter = silent, threads: int = 1) -> PrepareOutcome:
    """Make a dataset version from a finished ingest; the same card and ingest again add nothing.

    Args:
        threads: ncnn's threads for one image.

    Raises:
        UserError: no such ingest, or nothing usable in it, or nothing at least as large as the texture threshold.
    """
    raw = _finished_ingest(card, ingest_id, home)
    key = hashlib.sha256(f"{card.digest()} {ingest_id} {CODE_VERSION}".encode()).hexdigest()[:16]
    staging = home.dataset(card.name) / "staging" / key
    staging.mkdir(parents=True, exist_ok=True)
    with only_one(staging.parent / "lock", f"prepare of '{card.name}'"):
        if is_committed(home, card.name, key):
            return _earlier_outcome(staging / "outcome.json", card, home, key)
        plan = plan_rows(pq.read_table(raw.rows))
        parts = _work_off(card, raw, plan, _Stage(home.table(card.name), staging, key), report, threads)
        outcome = _outcome(card, key, plan, parts)
        # Written before the commit, too: whoever finds the commit finds the counts.
        write_json(staging / "outcome.json", outcome.model_dump(mode="json"))
        facts = {"card": card.digest(), "ingest_id": ingest_id, "code_version": CODE_VERSION}
        version = commit(home, card.name, key, [file for part in parts for file in part.files], facts)
        outcome = outcome.model_copy(update={"version": version})
        write_json(staging / "outcome.json", outcome.model_dump(mode="json"))
        return outcome


def _earlier_outcome(file: Path, card: Card, home: Home, key: str) -> PrepareOutcome:
    """The outcome of a commit that took place; a run killed right after it did not write down the version."""
    outcome = PrepareOutcome(**read_json(file))
    version = version_of(home, card.name, key) if outcome.version < 0 else outcome.version
    return outcome.model_copy(update={"version": version, "already_done": True})


def _finished_ingest(card: Card, ingest_id: str, home: Home) -> RawFolder:
    raw = RawFolder(home.raw(card.name, ingest_id), card.limits.rows_per_shard)
    if not raw.outcome.is_file():
        raise UserError(
            f"Dataset '{card.name}' has no finished ingest '{ingest_id}'; run `pangu ingest` with its card."
        )
    for shard in range(len(raw.expected_rows())):
        if not raw.shard_file(shard).is_file():
            raise UserError(f"The raw shard {raw.shard_file(shard)} is gone; remove {raw.outcome} and ingest again.")
    return raw


def plan_rows(rows: pa.Table) -> Plan:
    """Drop rows without any caption, then all but the first row of equal bytes, in the listing's order."""
    kept: dict[int, dict[int, dict[str, Any]]] = {}
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for row in rows.to_pylist():
        if row["reason"]:
            continue
        if not row["caption_en"] and not row["caption_zh"]:
            dropped["missing_caption"] += 1
        elif row["sha256"] in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(row["sha256"])
            kept.setdefault(row["shard"], {})[row["row"]] = row
    return Plan(kept, dropped)


@dataclass(frozen=True)
class _Stage:
    """Where the parts of one transaction wait."""

    table: Path
    folder: Path
    key: str

    def load(self, shard: int) -> Part | None:
        """The finished part, if its files are still whole."""
        manifest = self.folder / f"{shard:05d}.json"
        if not manifest.is_file():
            return None
        part = Part.model_validate(read_json(manifest))
        whole = all(
            (self.table / f.path).is_file() and (self.table / f.path).stat().st_size == f.size for f in part.files
        )
        return part if whole else None

    def save(self, shard: int, rows: list[dict[str, Any]], dropped: Counter[str]) -> Part:
        table = pa.Table.from_pylist(rows, schema=SCHEMA).sort_by([("bucket", "ascending"), ("key", "ascending")])
        files = []
        for upscaled in (False, True):
            chosen = table.filter(pa.compute.equal(table["upscaled"], upscaled))
            if chosen.num_rows:
                files.append(write_part(self.table, f"part-{self.key}-{shard:05d}", chosen, upscaled))
        held_out = sum(row["split"] == "held_out" for row in rows)
        part = Part(files=tuple(files), dropped=dict(dropped), held_out=held_out)
        write_json(self.folder / f"{shard:05d}.json", part.model_dump(mode="json"))
        return part


def _work_off(card: Card, raw: RawFolder, plan: Plan, stage: _Stage, report: Reporter, threads: int) -> list[Part]:
    upscaler = make_upscaler(card.upscale.upscaler, threads)
    total, done, parts = sum(map(len, plan.rows.values())), 0, []
    for shard in sorted(plan.rows):
        wanted = plan.rows[shard]
        part = stage.load(shard)
        if part is None:
            rows, dropped = [], Counter[str]()
            for row, data, _ in sorted(raw.images(shard), key=lambda image: image[0]):
                if row not in wanted or data is None:
                    continue
                try:
                    rows.append(make_row(card, wanted[row], data, upscaler))
                except BadImage as error:
                    dropped[error.reason] += 1
            part = stage.save(shard, rows, dropped)
        parts.append(part)
        done += len(wanted)
        report(Progress(stage="prepare", done=done, total=total, unit="images"))
    return parts


def make_row(card: Card, listed: dict[str, Any], data: bytes, upscaler: Upscaler) -> dict[str, Any]:
    """One dataset row from downloaded bytes.

    Raises:
        BadImage: it cannot be decoded, or is too small to be upscaled.
    """
    decoded = decode_rgb(data, card.limits.max_pixels)
    image_hwc, key = decoded.image_hwc, listed["sha256"]
    original_height, original_width, _ = image_hwc.shape
    factor = card.upscale.target_side / min(original_height, original_width)
    upscaler_name = ""
    is_small = min(original_height, original_width) < card.texture_min_side
    if is_small:
        if factor > card.upscale.max_factor:
            raise BadImage("too_small")
        image_hwc, upscaler_name = upscale_to(image_hwc, card.upscale.target_side, upscaler)
    height, width, _ = image_hwc.shape
    return {
        "key": key,
        "image": data if decoded.is_plain and not is_small else encode_png(image_hwc),
        "width": width,
        "height": height,
        "caption_en": listed["caption_en"],
        "caption_zh": listed["caption_zh"],
        "source_url": listed["url"],
        "license": listed["license"],
        "original_width": original_width,
        "original_height": original_height,
        "upscaled": is_small,
        "upscale_factor": factor if is_small else 1.0,
        "upscaler": upscaler_name,
        "min_timestep": card.upscale.min_timestep if is_small else 0,
        "bucket": bucket_of(width, height, card.upscale.target_side),
        "phash": str(imagehash.phash(Image.fromarray(image_hwc))),
        "split": card.split_of(listed["caption_en"], key),
        "style": listed.get("style") or card.style,
    }


def bucket_of(width: int, height: int, resolution: int) -> int:
    """The index of the preset of a base resolution whose aspect ratio is nearest; 0 where only the square one exists."""
    presets = presets_for(resolution)
    return min(range(len(presets)), key=lambda i: abs(math.log(presets[i][0] / presets[i][1] * width / height)))


def _outcome(card: Card, key: str, plan: Plan, parts: list[Part]) -> PrepareOutcome:
    files = [file for part in parts for file in part.files]
    upscaled = sum(file.rows for file in files if file.upscaled)
    originals = sum(file.rows for file in files if not file.upscaled)
    dropped = plan.dropped.copy()
    for part in parts:
        dropped.update(part.dropped)
    if not files:
        raise UserError(f"Nothing of '{card.name}' is usable; every row failed or was dropped: {dict(dropped)}.")
    if not originals:
        raise UserError(
            f"No image of '{card.name}' has a smaller side of {card.texture_min_side} px or more, so the texture "
            "generator would have nothing to learn from; lower texture_min_side in the card, or add larger images."
        )
    held_out = sum(part.held_out for part in parts)
    return PrepareOutcome(
        dataset=card.name, version=-1, rows=originals + upscaled, originals=originals, upscaled=upscaled,
        held_out=held_out, dropped=dict(sorted(dropped.items())), key=key,
    )  # fmt: skip
