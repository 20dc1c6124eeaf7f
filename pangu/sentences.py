"""The sentences in which the starter pair meets captions, and those by which it is judged and which nothing ever learns from."""

UNTRAINED_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "an illustration showing {a}",
        "could you sketch {a} for me?",
        "I would love to have {a}",
        "{a}, please",
        "here is {a} on a white background",
        "my favourite {}",
    ),
    "zh": (
        "请帮我画一下{}",
        "我很想看到{}",
        "一幅{}的插画",
        "给我来一个{}吧",
        "白色背景上的{}",
        "我最喜欢的{}",
    ),
}
"""Six in each language, written down before the first step of training with templates; the figures of understanding use them."""

_OPENINGS_EN = (
    "a picture of", "a drawing of", "an image of", "an icon of", "an emoji of", "a photo of", "a painting of",
    "the picture of", "picture of", "drawing of", "image of", "photo of", "draw", "draw me", "paint", "show",
    "show me", "make", "create", "generate", "give me", "this is", "there is", "that is", "it is", "I want", "we see",
    "look at", "can you draw", "please draw", "please make", "let me see", "one", "only", "just", "once more",
)  # fmt: skip
_ENDINGS_EN = (
    ".", "!", "?", " on white", " in the middle", " alone", ", nothing else", ", simple", " as an emoji", " now",
)  # fmt: skip
_OPENINGS_ZH = (
    "一个", "一只", "一张", "一把", "一条", "一位", "一朵", "一辆", "一棵", "一颗", "一座", "一件", "一台", "一本",
    "这个", "那个", "这是", "这是一个", "这里有", "有一个", "有", "画", "画一个", "画一只", "画出", "请画",
    "请画一个", "请给我画", "给我画一个", "给我看", "我要", "我要一个", "我想要一个", "来一张", "生成", "生成一张",
    "做一个", "看", "一张图片：", "图片：", "帮我生成一个",
)  # fmt: skip
_ENDINGS_ZH = (
    "。", "！", "的图片", "的图", "的照片", "的画", "的表情", "的图标", "的样子", "图", "，简单的",
    "，别的什么都没有",
)  # fmt: skip

_SENTENCES_EN = (
    "once upon a time there was {a}", "{a} sitting on a bench", "{a} in the rain", "my sister drew {a} yesterday",
    "a poster with {a}", "a sticker of {a}", "a logo with {a} in it", "a cartoon of {a}", "a portrait of {a}",
    "a doodle of {a} by a child", "the cover of a book about {a}", "have you ever met {a}", "what does {a} look like",
    "design {a} for my website", "I need {a} for school", "{a}, minimal, flat colours", "a postcard from a place with {a}",
    "{a} as a stamp", "a mug with {a}", "{a} seen from the side", "a very nice {}", "the best {} ever",
    "a tiny {} far away", "our old {}", "an unusual {}", "imagine {a}", "think of {a}", "{a} for a birthday card",
    "a render of {a}", "a close look at {a}", "a banner that has {a}", "a comic about {a}", "print {a}",
    "we were looking for {a}", "somebody left {a} here", "a story about {a}", "tell me what {a} is",
    "a plate with {a} on it", "{a} before a plain wall", "{a} and nothing around",
)  # fmt: skip
_SENTENCES_ZH = (
    "从前有一个{}", "长椅上的{}", "雨中的{}", "我妹妹画的{}", "一张{}的海报", "一个{}贴纸", "带{}的标志", "卡通{}", "{}的肖像",
    "孩子涂的{}", "一本关于{}的书", "你见过{}吗", "{}长什么样", "给网站设计{}", "学校要用的{}", "极简的{}", "印着{}的杯子",
    "从侧面看的{}", "很漂亮的{}", "远处小小的{}", "我们的旧{}", "想象一下{}", "生日卡上的{}", "一段关于{}的故事",
    "告诉我{}是什么", "盘子里的{}", "有人把{}留在这里", "找一个{}", "漫画里的{}", "打印{}",
)  # fmt: skip

TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "{a}", "{a}", "the {}", "{}.", "{a}.", "{}!", "{}?", "{plural}", "the {plural}", "some {plural}", "two {plural}",
        "{turned}", '"{}"', "a {}", "an {}",
        *(f"{opening} {{a}}" for opening in _OPENINGS_EN),
        *(f"{opening} the {{}}" for opening in _OPENINGS_EN[::4]),
        *(f"{opening} {{}}" for opening in _OPENINGS_EN[1::3]),
        *(f"{opening} {{plural}}" for opening in _OPENINGS_EN[2::6]),
        *(f"{{a}}{ending}" for ending in _ENDINGS_EN),
        *(f"{opening} {{a}}{ending}" for opening, ending in zip(_OPENINGS_EN[::3], _ENDINGS_EN, strict=False)),
    ),
    "zh": (
        "{}。", "{}！", "{}？", "“{}”", "{}，",
        *(f"{opening}{{}}" for opening in _OPENINGS_ZH),
        *(f"{{}}{ending}" for ending in _ENDINGS_ZH),
        *(f"{opening}{{}}{ending}" for opening in ("一个", "一张", "画一个", "这是", "我要") for ending in _ENDINGS_ZH[::2]),
        *(f"{opening}{{}}。" for opening in _OPENINGS_ZH[::3]),
    ),
}  # fmt: skip
"""What embedded tower and starter pair are trained with: articles, number and measure words, marks, requests, plural, order."""
ALL_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (*TEMPLATES["en"], *_SENTENCES_EN),
    "zh": (*TEMPLATES["zh"], *_SENTENCES_ZH),
}
"""What the embedded text encoder is trained with: those, and sentences with more in them than a request. An adapter that learned
a subject from twenty pictures in all of these drew it less often by its bare name than with `TEMPLATES` alone."""
STYLES = {"twemoji": "twemoji", "noto": "noto", "blob": "blob"}
"""Style -> the prefix of its captions; without one, OpenMoji's."""
