"""How a caption may be worded: as it stands, or inside a template that says the same in other words.

A template is a text with one field: `{}` the caption as listed, `{a}` with its indefinite article ("an umbrella"), `{plural}` in the
plural ("umbrellas"), `{turned}` with its second half first ("apple red"). All but the first are for English.
"""

import functools
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import inflect

FIELDS = ("", "a", "plural", "turned")


def trouble(template: str) -> str:
    """Why `template` is none, in one clause, or ""."""
    try:
        fields = [field for _, field, spec, conversion in string.Formatter().parse(template) if field is not None]
        extra = any(spec or conversion for _, _, spec, conversion in string.Formatter().parse(template))
    except ValueError as error:
        return f"is no template: {error}"
    if len(fields) != 1 or extra or fields[0] not in FIELDS:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        return f"must hold exactly one of {known}"
    return ""


def worded(template: str, caption: str) -> str:
    """`caption` in the place of the template's field; an empty caption stays empty.

    Raises:
        ValueError: `template` is none (see `trouble`).
    """
    if found := trouble(template):
        raise ValueError(f"'{template}' {found}")
    field = next(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)
    if not caption.strip():
        return caption
    changed = {"": str, "a": with_article, "plural": plural, "turned": turned}[field](caption)
    return template.replace(f"{{{field}}}", changed)


def chosen(templates: Sequence[str], caption: str, chance: float) -> str:
    """`caption` in the template that `chance` in [0, 1) picks, each as likely; as it stands where there is none."""
    return worded(templates[int(chance * len(templates))], caption) if templates else caption


def keyword(words: Sequence[str], chance: float) -> str | None:
    """The word that `chance` in [0, 1) picks, each as likely; None where there is none."""
    return words[int(chance * len(words))] if words else None


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


def check(templates: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError with one sentence if one of them is no template."""
    for language, own in templates.items():
        for template in own:
            if found := trouble(template):
                raise ValueError(f"caption_templates.{language}: '{template}' {found}")


def _is_plural(caption: str) -> bool:
    last = caption.split()[-1]
    return last.isalpha() and not last.endswith(("ss", "us", "is")) and bool(_engine().singular_noun(last))


@functools.cache
def _engine() -> "inflect.engine":
    import inflect

    return inflect.engine()
