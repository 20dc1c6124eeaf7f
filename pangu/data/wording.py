"""How a caption may be worded: as it stands, or inside a template that says the same in other words.

A template is a text with one field: `{}` the caption as listed, `{a}` with its indefinite article ("an umbrella"), `{plural}` in
the plural ("umbrellas"), `{turned}` with its second half first ("apple red"). All but the first are for English.
"""

import functools
import string
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pangu.data.captions import Caption, is_long
from pangu.templates import trouble

if TYPE_CHECKING:
    import inflect


def worded(template: str, caption: str) -> str:
    """`caption` in the place of the template's field; an empty caption stays empty.

    Raises:
        ValueError: `template` is none (see `trouble`).
    """
    if found := trouble(template):
        raise ValueError(f"'{template}' {found}")
    if not caption.strip():
        return caption
    change: dict[str, Callable[[str], str]] = {"": str, "a": with_article, "plural": plural, "turned": turned}
    parts = string.Formatter().parse(template)
    return "".join(before + ("" if field is None else change[field](caption)) for before, field, _, _ in parts)


def chosen(templates: Sequence[str], caption: str, chance: float) -> str:
    """`caption` in the template that `chance` in [0, 1) picks, each as likely; as it stands where there is none."""
    return worded(templates[int(chance * len(templates))], caption) if templates else caption


def keyword(words: Sequence[str], chance: float) -> str | None:
    """The word that `chance` in [0, 1) picks, each as likely; None where there is none."""
    return words[int(chance * len(words))] if words else None


def listed(captions: Sequence[str], shown: Caption, language: str) -> str:
    """The caption of a row that `shown` asks for: by number, or one of those that are short, or long, if it says so."""
    for chance, wants_long in ((shown.short, False), (shown.long, True)):
        if chance is not None:
            of_length = [text for text in captions if is_long(text, language) == wants_long]
            return of_length[int(chance * len(of_length))]
    return captions[shown.number % len(captions)]


def reworded(text: str, shown: Caption, words: Sequence[str], templates: Sequence[str]) -> str:
    """The caption `text` as `shown` asks for it: one of the row's keywords in its place, and a template around either."""
    if shown.keyword is not None:
        text = keyword(words, shown.keyword) or text
    return text if shown.template is None else chosen(templates, text, shown.template)


@functools.lru_cache(maxsize=65_536)
def with_article(caption: str) -> str:
    """ "an umbrella"; captions that are plural already get none."""
    return caption if _is_plural(caption) else str(_engine().a(caption))


@functools.lru_cache(maxsize=65_536)
def plural(caption: str) -> str:
    """ "umbrellas", "women with white cane"; captions that are plural already stay so."""
    return caption if _is_plural(caption) else str(_engine().plural_noun(caption))


def turned(caption: str) -> str:
    """ "apple red": the second half of the words first."""
    words = caption.split()
    middle = len(words) // 2
    return " ".join(words[middle:] + words[:middle])


def _is_plural(caption: str) -> bool:
    last = caption.split()[-1]
    return last.isalpha() and not last.endswith(("ss", "us", "is")) and bool(_engine().singular_noun(last))


_IMPORTING = threading.Lock()


@functools.cache
def _engine() -> "inflect.engine":
    import typeguard

    # It is imported without checks of its arguments, which are texts here: rewriting its source for them takes two seconds.
    with _IMPORTING:
        checked = typeguard.typechecked
        setattr(typeguard, "typechecked", lambda unchanged: unchanged)  # noqa: B010 (no type checker knows such a one)
        try:
            import inflect
        finally:
            setattr(typeguard, "typechecked", checked)  # noqa: B010
    return inflect.engine()
