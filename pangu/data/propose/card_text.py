"""A proposed card as YAML, with the reason of each choice beside it. Pure."""

from collections.abc import Mapping
from typing import Any

import yaml

from pangu.data.card import Licence
from pangu.data.propose.look import FoundSource
from pangu.data.propose.start_from import ProposedStart
from pangu.data.propose.survey import Sizes, Survey

OF_COLUMN = {
    "url": "where each picture is fetched from",
    "image": "the encoded pictures themselves; nothing is downloaded",
    "caption": "captions in both languages: each goes to its own",
    "caption_en": "captions in English",
    "caption_zh": "captions in Chinese",
    "keywords_en": "single words by which a picture may be asked for",
    "keywords_zh": "the same in Chinese",
    "license": "of each picture; where it is empty, the licence below holds",
    "style": "of each picture; a recipe may give each its prefix",
}
MAX_FACTOR = 4.0
"""Most that pictures are enlarged by; more than that invents too much of them."""


def card_text(
    name: str,
    found: FoundSource,
    survey: Survey,
    sizes: Sizes,
    start: ProposedStart,
    licence: Licence,
    captioner: str | None,
) -> str:
    """The YAML of a card, which `pangu.data.card.load_card` reads.

    found: with paths as the card is to name them. captioner: a model that writes English captions where there are none.
    """
    lines = [
        f"# Proposed by `pangu new` from {_words(found.kind)}.",
        f"# {sizes.usable} of {survey.listed} rows can be used. datasets/url_table.yaml.example explains every key.",
        _line("name", name),
        _line("source", found.source, "relative to this file"),
    ]
    if found.metadata is not None:
        lines.append(
            _line("metadata", found.metadata.model_dump(), "what the pictures show, and its column of their names")
        )
    lines.append("columns:")
    lines += [_line(key, column, OF_COLUMN[key], indent="  ") for key, column in found.columns.items()]
    if found.scores:
        lines.append(
            f"  # Not read: {_words(', '.join(found.scores))}; filter the table by them before, if you want to."
        )
    lines.append("licence:")
    lines += [_line(key, value, indent="  ") for key, value in licence.model_dump().items() if value]
    side, target = start.texture_min_side, start.target_side
    known = f"{sizes.large} of {len(survey.sides)} pictures" if survey.sides else "sizes are known after `pangu ingest`"
    lines += [
        f"# Sides are those of the recipe ({_words(start.name or 'the one beside this file')}), px.",
        _line("texture_min_side", side, f"at least this large: trains structure and texture; {known}"),
        "upscale:",
        _line(
            "target_side", target, f"smaller pictures ({sizes.enlarged}) are enlarged to this, for structure only", "  "
        ),
        _line("upscaler", "spanx4" if target <= 96 else "spanx2", indent="  "),
        _line("max_factor", MAX_FACTOR, f"dropped as too_small if that takes more: {sizes.too_small}", "  "),
    ]
    if captioner is not None:
        lines.append(_line("fill_captions", {"image_to_en": captioner}, "describes pictures without a caption"))
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, why: str = "", indent: str = "") -> str:
    said = f"{indent}{key}: {scalar(value)}"
    return f"{said}  # {_words(why)}" if why else said


def scalar(value: str | float | int | Mapping[str, Any]) -> str:
    """A value in one line of YAML."""
    texts = [value] if isinstance(value, str) else value.values() if isinstance(value, Mapping) else ()
    # What does not show, a line end among it, stands in double quotes and escaped.
    how: dict[str, Any] = (
        {"allow_unicode": True} if all(str(text).isprintable() for text in texts) else {"default_style": '"'}
    )
    dumped = yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False, **how)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _words(text: str) -> str:
    """Text for a comment: in one line."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
