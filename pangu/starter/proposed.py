"""What the starter pair is proposed to be asked for: a few drawings of its list, in the words of people."""

from collections.abc import Mapping, Sequence

from pangu.data.example.openmoji import Emoji, catalogue
from pangu.data.wording import worded

EMOJI = "emoji"
"""In the place of a template: the character itself."""
DRAWINGS: Mapping[str, str] = {
    "fox": "只", "umbrella": "把", "snowman": "个", "red apple": "个", "owl": "只", "sailboat": "只", "cactus": "棵",
    "penguin": "只", "sunflower": "朵", "pizza": "个", "castle": "座", "butterfly": "只", "teapot": "把", "crab": "只",
    "rocket": "枚", "bicycle": "辆", "rainbow": "道", "wolf": "只",
}  # fmt: skip
"""Names of the list, spread over its groups, all of things that can be counted -> the Chinese measure word."""
WORDINGS: Mapping[str, Sequence[str]] = {
    "en": ("{a}", "{a}, please", EMOJI, "{}", "a picture of {a}", "draw {a}"),
    "zh": ("画一个{}", "一张{}的图片", EMOJI, "{}", "请画一个{}", "{}。"),
}
"""Taken in turn; the second of each language is none that training uses as it stands."""


def proposed() -> dict[str, list[str]]:
    """Language -> texts, one for each of `DRAWINGS` and in their order; the same in every call."""
    listed = {one.caption_en: one for one in catalogue()}
    drawings = [listed[name] for name in DRAWINGS]
    return {
        language: [_text(wordings[place % len(wordings)], one, language) for place, one in enumerate(drawings)]
        for language, wordings in WORDINGS.items()
    }


def _text(wording: str, drawing: Emoji, language: str) -> str:
    if wording == EMOJI:
        return drawing.text
    if language == "en":
        return worded(wording, drawing.caption_en)
    return worded(wording.replace("个", DRAWINGS[drawing.caption_en]), drawing.caption_zh)
