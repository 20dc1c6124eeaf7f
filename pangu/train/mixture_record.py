"""From a training job on several datasets to the record of what it trains on."""

from collections import Counter

import pyarrow.compute as pc

from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.mixture_parts import EncodedPart, encoded_parts
from pangu.data.table.row_batches import row_batches
from pangu.data.trained_on import TrainedOn, TrainedPart
from pangu.errors import UserError
from pangu.storage import Home
from pangu.train.job import TrainJob


def trained_on(job: TrainJob) -> TrainedOn | None:
    """The datasets of the job's mixture; None where it is one dataset."""
    if job.recipe.mixture.is_plain:
        return None
    return TrainedOn(parts=tuple(_part(job, part) for part in encoded_parts(job.encoded, job.recipe)))


def _part(job: TrainJob, part: EncodedPart) -> TrainedPart:
    manifest = EncodedManifest.load(part.folder)
    return TrainedPart(
        dataset=part.dataset,
        version=manifest.version,
        encode_id=part.folder.name,
        weight=part.weight,
        rows=manifest.rows[job.role],
        licences=_licences(job, manifest),
    )


def _licences(job: TrainJob, manifest: EncodedManifest) -> dict[str, int]:
    """Of the rows of the training split that the job may open, the commonest first."""
    home, upscaled = Home(job.encoded.parents[3]), None if True in manifest.job(job.role).partitions else False
    try:
        counts = Counter[str]()
        for rows in row_batches(home, manifest.dataset, manifest.version, ["license"], upscaled, "train"):
            for one in pc.value_counts(rows["license"]).to_pylist():
                counts[one["values"] or ""] += one["counts"]
    except UserError:
        return {}  # a node may have the encoded files and not the table
    return dict(counts.most_common())
