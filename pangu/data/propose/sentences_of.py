"""What was found and is proposed, in plain sentences. Pure."""

from collections.abc import Mapping

from pangu.data.propose.look import FoundSource
from pangu.data.propose.start_from import EMBEDDED, NOTHING, ProposedStart
from pangu.data.propose.survey import Sizes, Survey

IN_WORDS = {
    "missing_caption": "without a caption",
    "unusable_caption": "without a usable caption from the server",
    "duplicate": "with the bytes of another",
    "not_an_image_file": "no picture",
    "not_an_image": "called a picture, but none inside",
    "undecodable": "broken inside",
    "missing_file": "named by the table, but not there",
    "missing_bytes": "without bytes",
    "unreadable_file": "that cannot be opened",
    "too_small": "too small to be enlarged",
    "too_many_pixels": "of more pixels than limits.max_pixels",
    "too_many_bytes": "of more bytes than limits.max_bytes",
    "missing_url": "without an address",
    "bad_url": "with an address that is none",
    "refused_scheme": "whose address is not http(s)",
    "refused_address": "on a private or loopback host",
}
"""Of reasons that a row can fail for; datasets/README.md has all of them."""
SHORT = 20
"""Fewer pictures than this are few."""
FEW_LARGE = 8


def sentences_of(
    where: str, found: FoundSource, read: Survey, fate: Sizes, start: ProposedStart, lost: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what is there and proposed, what the user should know).

    lost: of the rows of a table of URLs that were fetched to be shown, those that did not come, by reason.
    """
    failed = dict(read.failed) | ({"too_small": fate.too_small} if fate.too_small else {})
    said = [f"{where} is {found.kind}.", _rows(read.listed, fate.usable, failed)]
    if found.passed_over:
        said.append(f"Beside them lie {_listing(found.passed_over)}, which will not be read.")
    said += [_sizes(read, fate, start), _captions(fate)]
    begin = {EMBEDDED: "the embedded pair", NOTHING: "random weights"}.get(
        start.start, f"an adapter (LoRA) on {start.start}"
    )
    called = f"the recipe `{start.name}`" if start.name else "a recipe of its own, whose batches suit so many pictures,"
    said.append(f"Proposed: {called} at {start.target_side} px, from {begin}: {start.why}.")
    if names := start.recipe.placeholder_tokens:
        said.append(
            f"All captions say {' and '.join(names)}, most likely the name of what they show: it becomes one token "
            f"(placeholder_tokens of the recipe; take it out there if it names a look, or something that the pair knows)."
        )
    return tuple(said), tuple(_warnings(read, fate, found, lost))


def _rows(listed: int, usable: int, failed: Mapping[str, int]) -> str:
    if not failed:
        return f"{_many(listed, 'row')}, and all can be used."
    reasons = ", ".join(
        f"{count} {_words(reason)}" for reason, count in sorted(failed.items(), key=lambda one: -one[1])
    )
    return f"{_many(listed, 'row')}: {usable} can be used, {listed - usable} cannot ({reasons})."


def _words(reason: str) -> str:
    name, _, ending = reason.partition(" ")
    words = IN_WORDS.get(name, name)
    return f"{words} ({ending})" if ending else words


def _sizes(read: Survey, fate: Sizes, start: ProposedStart) -> str:
    if not read.sides:
        return (
            f"Their sizes show when they are fetched; those of at least {start.texture_min_side} px train texture, too."
        )
    smaller = f"; {_are(fate.enlarged)} smaller and will be enlarged, for structure only" if fate.enlarged else ""
    unknown = f"; of {fate.unmeasured} the size is not known yet" if fate.unmeasured else ""
    enough = f"{_pictures(fate.large)} large enough for texture (smaller side at least {start.texture_min_side} px)"
    return f"{enough}{smaller}{unknown}. Smaller sides go from {min(read.sides)} to {max(read.sides)} px."


def _captions(fate: Sizes) -> str:
    en, zh = fate.captions["en"], fate.captions["zh"]
    both = en + zh - fate.usable
    if not zh or not en:
        return (
            f"Captions are in {'English' if en else 'Chinese'} ({en or zh})."
            if en or zh
            else "A model writes the captions."
        )
    overlap = f", {both} in both" if both > 0 else ""
    return f"Captions are in English ({en}) and Chinese ({zh}){overlap}."


def _warnings(read: Survey, fate: Sizes, found: FoundSource, lost: Mapping[str, int]) -> list[str]:
    said = []
    if fate.usable < SHORT:
        said.append(
            f"{fate.usable} pictures are few: what is trained on them will repeat them; {SHORT} or more are better."
        )
    if fate.large < FEW_LARGE and not fate.unmeasured:
        said.append(f"Only {_pictures(fate.large)} large enough for texture, so all detail will look like theirs.")
    if read.foreign * 2 > read.read:
        said.append(
            f"{read.foreign} of {read.read} captions that are long enough to tell read like another language than English or "
            "Chinese; translate them first, or name text encoders in the recipe that know it."
        )
    en, zh = fate.captions["en"], fate.captions["zh"]
    if en and zh and (alone := 2 * fate.usable - en - zh) > 0:
        said.append(
            f"{alone} pictures have a caption in one language only, and are trained in that one; a translator under "
            "`fill_captions` of the card writes the other."
        )
    if found.scores:
        said.append(f"Nothing here reads the columns {', '.join(found.scores)}; filter the table by them first.")
    if lost:
        said.append(f"Of the rows fetched to be shown, some did not come: {_listing(lost)}.")
    return said


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _pictures(count: int) -> str:
    return f"{_many(count, 'picture')} {'is' if count == 1 else 'are'}"


def _are(count: int) -> str:
    return f"{count} is" if count == 1 else f"{count} are"
