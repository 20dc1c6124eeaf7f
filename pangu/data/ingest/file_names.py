"""What the files of a folder or an archive are to each other, by their names alone: images, captions beside them, and others.

Names are relative, with /. An ending is what follows the last dot, in any case. The captions of an image lie, in this order, in

    NAME.ENDING.txt    the whole name of the image, and .txt behind it
    NAME.txt           the name of the image, with .txt in the place of its ending
    KEY.txt            what stands before the first dot of the name, as webdataset has it, unless an image of its own is called so

and in .json in the same way. So `22.05.png` finds `22.05.txt`, and `000.seg.png` finds `000.txt` where there is no `000.jpg`
whose caption that would be.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from unicodedata import normalize

from pangu.data.images import SUFFIXES

CAPTION_SUFFIXES = (".txt", ".json")
NOT_AN_IMAGE_FILE = "not_an_image_file"


def suffix_of(name: str) -> str:
    """The ending of a file, in lower case with its dot; "" where it has none."""
    return PurePosixPath(name).suffix.lower()


def is_image(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def is_caption(name: str) -> bool:
    return suffix_of(name) in CAPTION_SUFFIXES


def captions_beside(names: Collection[str]) -> dict[str, list[str]]:
    """For each image among the names, the files that hold its captions: at most one .txt, then at most one .json."""
    beside: dict[tuple[str, str], str] = {}
    for name in sorted(filter(is_caption, names), reverse=True):
        beside[same_name(_stem(name)), suffix_of(name)] = name
    images = sorted(filter(is_image, names))
    stems = {_stem(name) for name in images}
    found = {}
    for name in images:
        places = [same_name(place) for place in _places(name, stems)]
        each = (next((beside[p, suffix] for p in places if (p, suffix) in beside), None) for suffix in CAPTION_SUFFIXES)
        found[name] = [caption for caption in each if caption is not None]
    return found


def caption_group(name: str) -> str:
    """Equal for an image and all files that could be its captions, and for all images that could have them."""
    folder, slash, base = name.rpartition("/")
    return same_name(f"{folder}{slash}{base.partition('.')[0]}")


def same_name(name: str) -> str:
    """A key that is equal for names which differ only in how systems write accents: as part of a letter, or behind it."""
    return normalize("NFC", name)


def other_file(name: str) -> str:
    """The reason of a file that is neither an image nor a caption of one: it names the ending, if that is one and no number."""
    suffix = suffix_of(name)
    is_ending = re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) and not suffix[1:].isdigit()
    return f"{NOT_AN_IMAGE_FILE} {suffix}" if is_ending else NOT_AN_IMAGE_FILE


def _stem(name: str) -> str:
    """The name with its folder, without its ending."""
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def _places(image: str, stems: Collection[str]) -> Iterator[str]:
    """Names without ending under which the captions of an image may lie, the nearest first."""
    yield image
    yield _stem(image)
    folder, slash, base = image.rpartition("/")
    key = base.partition(".")[0]
    if key and (whole := f"{folder}{slash}{key}") not in stems:
        yield whole
