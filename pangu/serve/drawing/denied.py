"""The deny list of prompts: words that a server's owner does not want drawn. A switch, and no judge of meaning."""

import re
import unicodedata
from collections.abc import Sequence

from pangu.serve.drawing.messages import Job


def plain(text: str) -> str:
    """Text as it is compared: compatibility forms unified, case and accents removed, white space single."""
    apart = unicodedata.normalize("NFKD", text).casefold()
    return " ".join("".join(sign for sign in apart if not unicodedata.combining(sign)).split())


def denied_word(job: Job, words: Sequence[str]) -> str | None:
    """The first of `words` that a prompt of the request holds: whole words in alphabets, anywhere in scripts without spaces."""
    texts = [plain(text) for text in (job.prompt, job.texture.prompt) if text]
    for word in words:
        asked = plain(word)
        pattern = rf"(?<!\w){re.escape(asked)}(?!\w)" if asked.isascii() else re.escape(asked)
        if asked and any(re.search(pattern, text) for text in texts):
            return word
    return None
