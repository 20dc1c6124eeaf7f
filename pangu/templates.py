"""What a template of captions may look like; `pangu.data.wording` puts captions into them."""

import string
from collections.abc import Mapping, Sequence
from typing import Literal

Language = Literal["en", "zh"]

FIELDS = ("", "a", "plural", "turned")
"""`{}`, `{a}`, `{plural}`, `{turned}`; the first is for every language, the others are for English."""


def trouble(template: str, language: Language = "en") -> str:
    """Why `template` is none in that language, in one clause, or ""."""
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        return f"is no template: {error}"
    known = FIELDS if language == "en" else FIELDS[:1]
    if len(parts) != 1 or parts[0][2] or parts[0][3] or parts[0][1] not in known:
        return f"must hold exactly one of {', '.join(f'{{{field}}}' for field in known)}"
    return ""


def check(templates: Mapping[Language, Sequence[str]]) -> None:
    """Raises ValueError with one sentence if one of them, by language, is no template."""
    for language, own in templates.items():
        for template in own:
            if found := trouble(template, language):
                raise ValueError(f"caption_templates.{language}: '{template}' {found}")
