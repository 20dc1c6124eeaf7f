"""Making rows: from the raw images of a shard to rows with every score, before anything decides which of them are kept.

Works shard by shard, in this process, in several, or on Ray's actors; each shard leaves one file of rows, those of its images and
a manifest, so that a killed run goes on after the last one.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pangu.data.captions import KEYWORDS, MORE
from pangu.data.card import Card
from pangu.data.fill_captions import LACKS
from pangu.data.images import BadImage, ImageHWC, decode_rgb, encode_png
from pangu.data.ingest.raw import RawFolder
from pangu.data.prepare.admission import Admitter
from pangu.data.prepare.chat_endpoint import Door
from pangu.data.prepare.embeddings_file import EMBEDDING, EmbeddingsWriter
from pangu.data.prepare.made_rows import Made, embeddings_file, made, made_file, manifest_file
from pangu.data.prepare.row_plan import PlannedShard
from pangu.data.prepare.scores import Scorer, facts_of
from pangu.data.prepare.upscale import Upscaler, upscale_to, upscaler_of
from pangu.data.prepare.workers import ALONE, WorkerSettings
from pangu.data.table.placed_images import GROUP_BYTES, placing
from pangu.data.table.schema import SCHEMA, STORED
from pangu.data.table.store import TableStore
from pangu.diffusion.presets import presets_for
from pangu.storage import write_json

ROWS_AT_ONCE = 1024
"""So many rows wait in memory before they are written, or fewer, whose images take `GROUP_BYTES`."""


@dataclass(frozen=True)
class ShardJob:
    """One raw shard, and which of its rows are wanted, as the ingest listed them (`pangu.data.ingest.raw.ROWS`)."""

    number: int
    raw: RawFolder
    planned: PlannedShard

    @property
    def shard(self) -> int:
        return self.planned.shard

    def wanted(self) -> dict[int, dict[str, Any]]:
        """The rows by their number in the ingest that holds the shard."""
        return {row["raw_row"]: row for row in self.planned.rows().to_pylist()}

    def stem(self, wanted: Mapping[int, Mapping[str, Any]]) -> str:
        """Names the files of its images: by what they are made of, in its order, because another home may fetch otherwise."""
        order = self.raw.row_numbers(self.shard)
        named = " ".join(wanted[row]["sha256"] for row in order if row in wanted)
        return f"{self.number:05d}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"


class ShardWorker:
    """Makes the rows of shards, and writes their images where they stay.

    Holds the networks, so one per process serves many shards.

    Args:
        folder: Of the work: rows and manifests go there.
        store: The table, whose folder gets the images.
        execution: How many such workers there are, and ncnn's threads for one image.
        door: To the model that is served, where the card names one.
    """

    def __init__(
        self,
        card: Card,
        admitter: Admitter,
        folder: Path,
        store: TableStore,
        execution: WorkerSettings = ALONE,
        door: Door | None = None,
    ) -> None:
        self._card, self._admitter, self._folder, self._store = card, admitter, folder, store
        self._upscaler = upscaler_of(card, execution.threads)
        self._scorer = Scorer(card.filters)
        self._filler = _filler(card, door)

    def __call__(self, job: ShardJob) -> int:
        """Make one shard, unless an earlier run has; returns its number."""
        if made(self._folder, job.number, self._store.size) is None:
            look = partial(decoded, self._card, job)
            wanted = job.wanted()
            self._write(job, self._filler.fill(wanted, look) if self._filler else wanted)
        return job.number

    def _write(self, job: ShardJob, wanted: Mapping[int, dict[str, Any]]) -> None:
        dropped, held, rows = Counter[str](), 0, 0
        waiting: list[dict[str, Any]] = []
        file = made_file(self._folder, job.number)
        with (
            placing(self._store, self._folder.name, job.stem(wanted)) as placer,
            TableStore(str(self._folder)).parquet_writer(file.name, STORED, compression="zstd") as writer,
            EmbeddingsWriter(embeddings_file(file)) as vectors,
        ):
            for row, data, _ in job.raw.images(job.shard):
                if row not in wanted or data is None:
                    continue
                try:
                    waiting.append(
                        make_row(self._card, wanted[row], data, self._upscaler, self._scorer, self._admitter)
                    )
                except BadImage as error:
                    dropped[error.reason] += 1
                    continue
                rows, held = rows + 1, held + len(waiting[-1]["image"])
                if held >= GROUP_BYTES or len(waiting) >= ROWS_AT_ONCE:
                    writer.write_table(placer.place(_by_bucket(waiting)))
                    vectors.add(waiting)
                    waiting, held = [], 0
            if waiting:
                writer.write_table(placer.place(_by_bucket(waiting)))
                vectors.add(waiting)
        images = {path: self._store.size(path) or 0 for path in placer.rows}
        manifest = Made(
            rows=rows, size=file.stat().st_size, dropped=dict(dropped), images=images, embeddings=vectors.size
        )
        write_json(manifest_file(self._folder, job.number), manifest.model_dump(mode="json"))


def _by_bucket(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of one shape lie together, as encoding wants them."""
    return pa.Table.from_pylist(rows, schema=SCHEMA).sort_by([("bucket", "ascending"), ("key", "ascending")])


def _filler(card: Card, door: Door | None) -> Any:
    if card.fill_captions is None:
        return None
    from pangu.data.prepare.missing_captions import CaptionFiller  # brings transformers along

    return CaptionFiller(card.fill_captions, door)


def make_row(
    card: Card, listed: Mapping[str, Any], data: bytes, upscaler: Upscaler, scorer: Scorer, admitter: Admitter
) -> dict[str, Any]:
    """One dataset row from downloaded bytes.

    Raises:
        BadImage: it cannot be decoded, is too small to be upscaled, or has no caption and no model wrote one.
    """
    found = decode_rgb(data, card.limits.max_pixels)
    original_hwc, key = found.image_hwc, listed["sha256"]
    original_height, original_width, _ = original_hwc.shape
    side = min(original_height, original_width)
    factor = card.upscale.target_side / side
    is_small = side < card.texture_min_side
    if is_small and factor > card.upscale.max_factor:
        raise BadImage("too_small")
    captions = listed["caption_en"], listed["caption_zh"]
    if not any(captions):
        raise BadImage(listed.get(LACKS, "missing_caption"))
    more = {name: listed.get(name) or [] for name in MORE.values()}
    listed_captions = ([first, *others] for first, others in zip(captions, more.values(), strict=True))
    facts = facts_of(original_hwc, *listed_captions) | scorer.scores(original_hwc, *captions)
    facts[EMBEDDING] = scorer.embedding(original_hwc)
    image_hwc, upscaler_name = original_hwc, ""
    if is_small:
        image_hwc, upscaler_name = upscale_to(original_hwc, card.upscale.target_side, upscaler)
    height, width, _ = image_hwc.shape
    return facts | {
        "key": key,
        "image": data if found.is_plain and not is_small else encode_png(image_hwc),
        "width": width,
        "height": height,
        "caption_en": captions[0],
        "caption_zh": captions[1],
        "caption_en_by": listed.get("caption_en_by", ""),
        "caption_zh_by": listed.get("caption_zh_by", ""),
        **{f"{name}_by": listed.get(f"{name}_by", "") for name in MORE.values()},
        "source_url": listed["url"],
        "license": listed["license"],
        "original_width": original_width,
        "original_height": original_height,
        "upscaled": is_small,
        "upscale_factor": factor if is_small else 1.0,
        "upscaler": upscaler_name,
        "min_timestep": admitter.min_timestep(image_hwc, factor) if is_small else 0,
        "bucket": bucket_of(width, height, card.upscale.target_side),
        "split": "train",  # decided with the thresholds
        "style": listed.get("style") or card.style,
        **{name: texts or None for name, texts in more.items()},
        **{name: listed.get(name) or None for name in KEYWORDS.values()},
    }


def bucket_of(width: int, height: int, resolution: int) -> int:
    """The index of the preset of a base resolution whose aspect ratio is nearest; 0 where only the square one exists."""
    presets = presets_for(resolution)
    return min(range(len(presets)), key=lambda i: abs(math.log(presets[i][0] / presets[i][1] * width / height)))


def decoded(card: Card, job: ShardJob, rows: Collection[int]) -> Iterator[tuple[int, ImageHWC]]:
    """Number and pixels of those of the asked rows of a shard that can be decoded."""
    for row, data, _ in job.raw.images(job.shard) if rows else ():
        if row in rows and data is not None:
            with suppress(BadImage):
                yield row, decode_rgb(data, card.limits.max_pixels).image_hwc


def originals_of(card: Card, jobs: Sequence[ShardJob]) -> Iterator[ImageHWC]:
    """Pixels of images at least as large as the texture threshold, in the order of the jobs."""
    for job in jobs:
        for _, image_hwc in decoded(card, job, set(job.wanted())):
            if min(image_hwc.shape[:2]) >= card.texture_min_side:
                yield image_hwc
