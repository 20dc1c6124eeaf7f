"""What the page of datasets shows of a version: pages of its rows, their pictures, and its thresholds. Changes nothing.

Rows are read a page at a time and named by their place in the version, so no path comes from a request.
"""

import io
import time
from functools import lru_cache
from typing import Any, Literal, cast, get_args

from pangu.data.filters import NEEDS, Filters, NearDuplicates
from pangu.data.images import BadImage, read_rgb
from pangu.data.prepare.kept_cards import card_of
from pangu.data.table.delta import data_files
from pangu.data.table.numbered_rows import NumberedRows
from pangu.data.table.rejected import REASON, rejected_files
from pangu.data.table.store import TableStore
from pangu.data.table.twins import twins_of
from pangu.data.table.versions import VersionEntry, log
from pangu.errors import UserError
from pangu.storage import Home

Kind = Literal["kept", "dropped"]
PAGE_ROWS = 24
SMALL_SIDE = 200
"""Pixels of the longer side of a picture in a list."""
SHOWN = [
    "caption_en", "caption_zh", "original_width", "original_height", "upscaled", "min_timestep", "split", "license", "source_url",
    "aspect", "english", "chinese", "text_area", "nsfw", "clip_score", "aesthetic",
]  # fmt: skip
NEAR = "near_duplicate"
SCORES = tuple(NEEDS)
FRESH_S = 5.0
"""So old may be what is told of a log that nobody wrote to."""


def versions_of(home: Home, name: str) -> list[VersionEntry]:
    """The log of a dataset, newest first.

    Raises:
        UserError: there is no such dataset.
    """
    check_name(home, name)
    logged = home.table(name) / "_delta_log"
    stamp = logged.stat().st_mtime_ns if not home.tables and logged.is_dir() else 0
    return _entries(home, name, stamp, int(time.monotonic() / FRESH_S))


@lru_cache(maxsize=8)
def _entries(home: Home, name: str, stamp: int, moment: int) -> list[VersionEntry]:
    """The log as it is at a moment: every picture of a page asks for it. A commit changes the stamp, a vacuum is seen later."""
    return log(home, name)


def check_name(home: Home, name: str) -> None:
    """Raises UserError unless the home has such a dataset; a name with a path in it is none."""
    if name not in (folder.name for folder in (home.root / "datasets").glob("*/")):
        raise UserError(f"There is no dataset '{name[:64]}' in this home.")


def described(home: Home, name: str, version: int) -> dict[str, Any]:
    """A version: its counts, what it dropped by reason, and its thresholds.

    Raises:
        UserError: no such dataset or version, or its files were vacuumed.
    """
    entries = versions_of(home, name)
    entry = entry_in(entries, name, version)
    kept, dropped = rows_of(home, name, version, "kept"), rows_of(home, name, version, "dropped")
    found: dict[str, Any] = {
        "dataset": name,
        "version": version,
        "versions": [{"version": one.version, "at": one.at, "readable": one.readable} for one in entries],
        "at": entry.at,
        "kept": len(kept),
        "dropped": dict(dropped.counts(REASON).most_common()),
        "page_rows": PAGE_ROWS,
    }
    try:
        card = card_of(home, name, entry)
    except UserError as error:
        return found | {"thresholds": None, "without_card": str(error)}
    measured = kept.measured(SCORES)
    return found | {"thresholds": thresholds(card.filters, measured), "description": card.description}


def entry_in(entries: list[VersionEntry], name: str, version: int) -> VersionEntry:
    """The entry of a version.

    Raises:
        UserError: there is none, or it was vacuumed.
    """
    for entry in entries:
        if entry.version == version and entry.readable:
            return entry
    have = ", ".join(str(entry.version) for entry in entries if entry.readable)
    raise UserError(f"Dataset '{name}' has no readable version {version}; it has {have or 'none'}.")


def thresholds(filters: Filters, measured: set[str]) -> list[dict[str, Any]]:
    """Each threshold with its value and its bounds; `usable` where rows have the score that it looks at."""
    needs = {threshold: score for score, threshold in NEEDS.items()}
    found = []
    for model, prefix in ((Filters, ""), (NearDuplicates, "near_duplicates.")):
        own = filters if model is Filters else filters.near_duplicates
        for name, schema in model.model_json_schema()["properties"].items():
            kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") in ("integer", "number")]
            if not kinds:
                continue
            field = model.model_fields[name]
            found.append(
                {
                    "name": f"{prefix}{name}",
                    "value": getattr(own, name) if own is not None else None,
                    "default": None if field.is_required() else field.default,
                    "whole": kinds[0]["type"] == "integer",
                    "least": kinds[0].get("minimum"),
                    "most": kinds[0].get("maximum"),
                    "usable": name not in needs or needs[name] in measured,
                }
            )
    return found


def as_kind(text: str) -> Kind:
    """Raises UserError for what is neither."""
    if text not in get_args(Kind):
        raise UserError(f"Rows are kept or dropped, not '{text[:20]}'.")
    return cast(Kind, text)


def rows_of(home: Home, name: str, version: int, kind: Kind) -> NumberedRows:
    """The rows that a version keeps or dropped, by their places.

    Raises:
        UserError: no such dataset or version, or files of it are gone.
    """
    entry = entry_in(versions_of(home, name), name, version)
    return _numbered(home, name, version, kind, entry.key)


@lru_cache(maxsize=4)
def _numbered(home: Home, name: str, version: int, kind: Kind, key: str) -> NumberedRows:
    """What a key committed never changes."""
    if kind == "kept":
        return NumberedRows(data_files(home, name, version))
    return NumberedRows(rejected_files(home, name, key), TableStore.of(home, name).uri)


def page(home: Home, name: str, version: int, kind: Kind, number: int, reason: str = "") -> dict[str, Any]:
    """A page of rows; of dropped ones those of one reason, if it is named, and for near duplicates the kept picture that each is
    nearest to.

    Raises:
        UserError: as `rows_of`, or a page that is not there.
    """
    rows, first = rows_of(home, name, version, kind), number * PAGE_ROWS
    if kind == "dropped" and reason:
        places, total = rows.places_where(REASON, reason, first, PAGE_ROWS)
    else:
        total = len(rows)
        places = list(range(first, min(total, first + PAGE_ROWS)))
    if number < 0 or (number > 0 and not places):
        raise UserError(f"There is no page {number}; there are {-(-total // PAGE_ROWS)}, counted from 0.")
    return {"total": total, "rows": listed(home, name, version, kind, places)}


def listed(home: Home, name: str, version: int, kind: Kind, places: list[int]) -> list[dict[str, Any]]:
    """Facts of the rows at some places, without their images."""
    rows = rows_of(home, name, version, kind)
    if not places:
        return []
    extra = [REASON, "phash", "colours"] if kind == "dropped" else []
    found = rows.take(places, [*SHOWN, *extra])
    facts = [
        {"place": place, **_filled(row)}
        for place, row in zip(
            places, found.select([one for one in found.column_names if one in SHOWN]).to_pylist(), strict=True
        )
    ]
    if kind == "kept":
        return facts
    reasons = found[REASON].to_pylist()
    near = [number for number, why in enumerate(reasons) if why == NEAR]
    kept = rows_of(home, name, version, "kept")
    twins = dict(zip(near, twins_of(found.take(near), kept), strict=True)) if near else {}
    for number, (fact, why) in enumerate(zip(facts, reasons, strict=True)):
        fact["reason"] = why
        if (twin := twins.get(number)) is not None:
            caption = kept.take([twin.place], ["caption_en", "caption_zh"]).to_pylist()[0]
            fact["twin"] = {"place": twin.place, "bits": twin.bits, "colour": twin.colour, **_filled(caption)}
    return facts


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def picture(home: Home, name: str, version: int, kind: Kind, place: int, small: bool) -> tuple[bytes, str]:
    """(an image file that any browser shows, its media type): a small JPEG, or a PNG of the whole. Always encoded here anew, so
    that nothing but pixels of what strangers sent reaches a browser.

    Raises:
        UserError: as `rows_of`, no such row, or its image is gone or can not be read.
    """
    rows = rows_of(home, name, version, kind)
    [data] = rows.take([place], ["image"])["image"].to_pylist()
    try:
        image = read_rgb(data or b"", at_least=2 * SMALL_SIDE if small else None)
    except BadImage as error:
        raise UserError(f"The image of row {place} can not be shown: {error.reason}.") from error
    sink = io.BytesIO()
    if small:
        image.thumbnail((SMALL_SIDE, SMALL_SIDE))
        image.save(sink, "JPEG", quality=85)
        return sink.getvalue(), "image/jpeg"
    image.save(sink, "PNG")
    return sink.getvalue(), "image/png"
