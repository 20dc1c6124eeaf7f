"""Rows of other shapes and with styles, for tests of buckets and captions."""

import hashlib
import io
from collections.abc import Mapping

from PIL import Image

from pangu.config import Recipe
from pangu.data.example.openmoji import Emoji, render_png, selection
from pangu.recipes import tiny
from pangu.storage import Home
from tests.small_dataset import commit_rows, row


def styled_row(one: Emoji, style: str | None) -> dict:
    """An original with a style."""
    return row(one, False) | {"style": style}


def cropped(home: Home, sizes: Mapping[tuple[int, int], int]) -> int:
    """Commit so many originals of each (height, width)."""
    rows, drawings = [], iter(selection(sum(sizes.values())))
    for (height, width), count in sizes.items():
        for one in (next(drawings) for _ in range(count)):
            picture = Image.open(io.BytesIO(render_png(one, max(height, width)))).convert("RGB")
            sink = io.BytesIO()
            picture.crop((0, 0, width, height)).save(sink, "PNG")
            key = hashlib.sha256(sink.getvalue()).hexdigest()
            sides = {"width": width, "height": height, "original_width": width, "original_height": height}
            rows.append(row(one, False, key=key, image=sink.getvalue(), **sides))
    return commit_rows(home, rows)


def shaped_recipe(batch_size: int = 2, **changes: object) -> Recipe:
    """The tiny recipe with the published presets, scaled."""
    changes = {"presets": "published", "batch_size": batch_size, **changes}
    return tiny().model_copy(
        update={"jobs": {role: job.model_copy(update=changes) for role, job in tiny().jobs.items()}}
    )
