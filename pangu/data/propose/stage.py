"""Propose a dataset card from a folder or a table: look, read through, choose, say it in sentences, and write it down."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import Field

from pangu.config import Frozen
from pangu.data.captions import LANGUAGES
from pangu.data.card import Card, Licence, card_folders, load_card
from pangu.data.propose.card_text import MAX_FACTOR, card_text
from pangu.data.propose.fetch_shown import fetch_shown
from pangu.data.propose.look import FoundSource, look, no_captions, provisional
from pangu.data.propose.sentences_of import sentences_of
from pangu.data.propose.start_from import ProposedStart, fitted, named, propose_start
from pangu.data.propose.survey import SHOWN_SIDE, Sizes, Survey, sizes, survey
from pangu.errors import UserError
from pangu.image_grid import png
from pangu.lettering import captioned
from pangu.progress import Reporter, silent
from pangu.storage import Home, write_atomically

FEWEST = 8
"""Pictures that a card is proposed for."""
LARGE = 512
"""Side from which on a picture counts as large when a recipe is chosen, px."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
SHEET = "proposal.png"
COLUMNS = 5


class NewCard(Frozen):
    """What was proposed and written down: listed = ok + the sum of `failed`."""

    dataset: str
    card: str = Field(description="The file that was written")
    recipe: str = Field(description="Name of a recipe, or the file that was written beside the card")
    start: str
    sheet: str = Field(description="Picture of some rows; empty where none could be shown")
    listed: int
    ok: int
    failed: dict[str, int] = Field(description="Rows by reason")
    large: int = Field(description="Rows that train the texture generator, too")
    enlarged: int = Field(description="Rows that will be enlarged, and train the structure generator only")
    unmeasured: int = Field(description="Rows whose size is known when they are fetched")
    captions: dict[str, int] = Field(description="Rows by language of their captions")
    next_command: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A card that is not written yet. sentences: what was found and is proposed; warnings: what the user should know."""

    name: str
    found: FoundSource
    survey: Survey
    sizes: Sizes
    start: ProposedStart
    captioner: str | None
    sheet: Path | None
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def propose(
    place: Path,
    name: str | None,
    home: Home,
    start: str | None = None,
    captioner: str | None = None,
    gpu_gib: float | None = None,
    force: bool = False,
    report: Reporter = silent,
) -> Proposal:
    """What card, recipe and start suit a folder or a table; writes the sheet, and nothing else.

    Args:
        start: "embedded", "nothing", a folder or a hub id of a model; None leaves it to the numbers.
        captioner: A model that describes pictures without a caption.
        gpu_gib: Memory of the GPU that will train; None without one.
        force: Take a name that is taken.

    Raises:
        UserError: the name is taken or none, or nothing there can be trained on; the sentence says what to do.
    """
    name = name or _name_of(place)
    _check_name(name, home, force)
    found = look(place, captioner is not None)
    card = _reading(name, found, captioner)
    read = survey(card, home, found.sides, report)
    where = f"{place}"
    _check_usable(where, read)
    large = sum(side is None or side >= LARGE for side, _ in read.rows)
    begin = propose_start(start, len(read.rows), large, gpu_gib)
    fate = sizes(read, begin.texture_min_side, begin.target_side, MAX_FACTOR)
    _check_sizes(where, read, fate, begin)
    begin = named(fitted(begin, name, fate.usable, fate.large + fate.unmeasured), read.shared)
    shown, lost = (read.shown, dict[str, int]()) if read.shown else fetch_shown(card, home)
    sheet = None
    if shown:
        sheet = home.dataset(name) / SHEET
        picture = captioned([row.picture for row in shown], [row.caption for row in shown], COLUMNS, SHOWN_SIDE)
        write_atomically(sheet, png(picture))
    said, warnings = sentences_of(where, found, read, fate, begin, lost)
    return Proposal(name, found, read, fate, begin, captioner, sheet, said, warnings)


def write_proposal(proposal: Proposal, licence: Licence, home: Home, force: bool = False) -> NewCard:
    """Write the card, and its recipe where none of that name fits, into `datasets/` of the working folder.

    Raises:
        UserError: the name was taken meanwhile.
    """
    name, start = proposal.name, proposal.start
    _check_name(name, home, force)
    folder = card_folders()[0]
    card = folder / f"{name}.yaml"
    found = _named_from(folder, proposal.found)
    text = card_text(name, found, proposal.survey, proposal.sizes, start, licence, proposal.captioner)
    Card.model_validate(yaml.safe_load(text))
    recipe = start.name
    if not recipe:
        recipe = str(folder / f"{name}.recipe.json")
        write_atomically(Path(recipe), start.recipe.model_dump_json(indent=2).encode())
    write_atomically(card, text.encode())
    load_card(card)
    read, fate = proposal.survey, proposal.sizes
    failed = dict(sorted(read.failed.items())) | ({"too_small": fate.too_small} if fate.too_small else {})
    return NewCard(
        dataset=name,
        card=str(card),
        recipe=recipe,
        start=start.start,
        sheet="" if proposal.sheet is None else str(proposal.sheet),
        listed=read.listed,
        ok=fate.usable,
        failed=failed,
        large=fate.large,
        enlarged=fate.enlarged,
        unmeasured=fate.unmeasured,
        captions={language: fate.captions[language] for language in LANGUAGES},
        next_command=f"pangu retrain {name}" + (f" --recipe {start.name}" if start.name not in ("", "demo") else ""),
        warnings=proposal.warnings,
    )


def _name_of(place: Path) -> str:
    """A name for a card, from that of a folder or a file.

    Raises:
        UserError: it has no letter that a card's name may have.
    """
    path = Path(os.path.realpath(place.expanduser()))
    plain = path.name if path.is_dir() else path.name.partition(".")[0]
    name = re.sub(r"[^a-z0-9_-]+", "-", plain.lower()).strip("-_")[:64]
    if not NAME.fullmatch(name):
        raise UserError(
            f"No name for the card follows from '{plain}'; give one behind it, e.g. `pangu new {place} my-pictures`."
        )
    return name


def _check_name(name: str, home: Home, force: bool) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            f"'{name}' is no name of a card: use up to 64 of a-z, 0-9, - and _, beginning with a letter or a digit."
        )
    taken = [folder / f"{name}.yaml" for folder in card_folders() if (folder / f"{name}.yaml").exists()]
    made = [path for path in (home.dataset(name) / "raw", home.table(name)) if path.exists()]
    if not force and (taken or made):
        what = f"a card {taken[0]}" if taken else f"a dataset {made[0].parent}"
        raise UserError(f"There is {what} already: give another name behind the folder, or overwrite it with --force.")


def _reading(name: str, found: FoundSource, captioner: str | None) -> Card:
    """The card that the source is read through with."""
    card = provisional(found.source, found.columns, found.metadata)
    fill = None if captioner is None else {"image_to_en": captioner}
    return Card.model_validate(card.model_dump() | {"name": name, "fill_captions": fill})


def _named_from(folder: Path, found: FoundSource) -> FoundSource:
    """The source as a card in `folder` names it: relative where it lies below the working folder, so that both may move."""

    def named(path: str) -> str:
        below = Path.cwd() in Path(path).parents
        return os.path.relpath(path, folder.absolute()) if below else path

    metadata = found.metadata
    if metadata is not None:
        metadata = metadata.model_copy(update={"file": named(metadata.file)})
    return replace(found, source=named(found.source), metadata=metadata)


def _check_usable(where: str, read: Survey) -> None:
    if len(read.rows) >= FEWEST:
        return
    of_pictures = {reason for reason in read.failed if not reason.startswith("not_an_image_file")}
    if not read.rows and of_pictures == {"missing_caption"}:
        raise no_captions(where, read.failed["missing_caption"])
    reasons = ", ".join(f"{count} {reason}" for reason, count in read.failed.most_common(4))
    why = f" ({reasons}; datasets/README.md explains each)" if reasons else ""
    if read.failed["refused_address"] > read.listed // 2:
        raise UserError(
            f"The addresses in {where} are on private or loopback hosts{why}; write its card by hand, from "
            "datasets/url_table.yaml.example, and name the hosts in limits.allow_private_hosts."
        )
    raise UserError(
        f"{where} has only {len(read.rows)} pictures that can be trained on, of {read.listed} rows{why}; add pictures with "
        f"captions until there are at least {FEWEST}, better 20 or more."
    )


def _check_sizes(where: str, read: Survey, fate: Sizes, start: ProposedStart) -> None:
    if fate.large or fate.unmeasured:
        return
    raise UserError(
        f"All {len(read.rows)} pictures of {where} are too small: the largest has a smaller side of {max(read.sides)} px, and "
        f"the texture generator learns detail from at least {start.texture_min_side} px; look for the originals in full size."
    )
