"""Which captions a row has: two languages, and the same under its style's prefix. Knows nothing of text encoders."""

import pyarrow as pa

LANGUAGES = ("en", "zh")
EMPTY = -1
"""The caption variant that dropout puts in the place of any other."""


def captions_of(rows: pa.Table, language: str) -> list[str]:
    """One caption per row; a missing one is the other language's."""
    other = LANGUAGES[1 - LANGUAGES.index(language)]
    pairs = zip(rows[f"caption_{language}"].to_pylist(), rows[f"caption_{other}"].to_pylist(), strict=True)
    return [own or instead or "" for own, instead in pairs]


def styles_of(rows: pa.Table) -> list[str | None]:
    """One style or None per row; None throughout for datasets from before there were styles."""
    return rows["style"].to_pylist() if "style" in rows.column_names else [None] * rows.num_rows
