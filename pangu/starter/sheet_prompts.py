"""Prompts that no drawing answers: two things together, and a colour that the list lacks. Nothing is trained on them."""

from pangu.data.example.openmoji import catalogue
from pangu.data.wording import with_article

PAIRS = (
    ("cat", "umbrella"), ("dog", "balloon"), ("fox", "cactus"), ("owl", "key"), ("penguin", "guitar"), ("rabbit", "carrot"),
    ("crab", "crown"), ("elephant", "bicycle"), ("robot", "rose"), ("ghost", "candle"), ("butterfly", "sunflower"),
    ("teapot", "cookie"), ("rocket", "rainbow"), ("turtle", "backpack"), ("monkey", "banana"), ("horse", "house"),
    ("lion", "bell"), ("whale", "sailboat"), ("pig", "top hat"), ("frog", "kite"), ("bear", "pizza"), ("duck", "scissors"),
    ("spider", "hammer"), ("swan", "trumpet"), ("octopus", "pencil"), ("snail", "mushroom"), ("tiger", "drum"),
    ("panda", "tulip"), ("bus", "volcano"), ("airplane", "cloud"), ("snowflake", "fire"), ("lemon", "strawberry"),
)  # fmt: skip
COLOURED = (
    ("blue", "蓝色的", "banana"), ("green", "绿色的", "fox"), ("purple", "紫色的", "elephant"), ("pink", "粉色的", "castle"),
    ("yellow", "黄色的", "penguin"), ("red", "红色的", "frog"), ("orange", "橙色的", "whale"), ("black", "黑色的", "rabbit"),
    ("blue", "蓝色的", "carrot"), ("green", "绿色的", "umbrella"), ("purple", "紫色的", "sunflower"),
    ("pink", "粉色的", "bicycle"), ("yellow", "黄色的", "strawberry"), ("red", "红色的", "cactus"),
    ("orange", "橙色的", "owl"), ("black", "黑色的", "duck"),
    ("blue", "蓝色的", "fire"), ("green", "绿色的", "pig"), ("purple", "紫色的", "lemon"), ("pink", "粉色的", "octopus"),
    ("yellow", "黄色的", "crab"), ("red", "红色的", "turtle"), ("orange", "橙色的", "grapes"), ("white", "白色的", "spider"),
    ("blue", "蓝色的", "lion"), ("green", "绿色的", "teapot"), ("purple", "紫色的", "cow"), ("pink", "粉色的", "key"),
    ("yellow", "黄色的", "rose"), ("red", "红色的", "airplane"), ("orange", "橙色的", "snail"), ("grey", "灰色的", "pizza"),
)  # fmt: skip


def two_things() -> list[str]:
    """32 prompts for two drawings at once: the first half in English, the second in Chinese."""
    chinese, half = _chinese(), len(PAIRS) // 2
    return [f"{with_article(one)} and {with_article(other)}" for one, other in PAIRS[:half]] + [
        f"{chinese[one]}和{chinese[other]}" for one, other in PAIRS[half:]
    ]


def colours() -> list[str]:
    """32 prompts for a drawing in another colour: the first half in English, the second in Chinese."""
    chinese, half = _chinese(), len(COLOURED) // 2
    return [with_article(f"{colour} {thing}") for colour, _, thing in COLOURED[:half]] + [
        f"{colour}{chinese[thing]}" for _, colour, thing in COLOURED[half:]
    ]


def _chinese() -> dict[str, str]:
    return {one.caption_en: one.caption_zh for one in catalogue()}
