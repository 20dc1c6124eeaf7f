"""What a card says about captions that it lacks: who writes them, in which languages and lengths."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pangu.config import Frozen
from pangu.data.captions import LANGUAGES
from pangu.templates import Language

Length = Literal["short", "long"]
LACKS = "lacks_caption_because"
"""Of a listed row without any caption: the reason that it is dropped for, where it is not `missing_caption`."""


class CaptionServer(Frozen):
    """A chat model that sees, behind OpenAI's protocol (`POST /chat/completions`).

    Its address and key are the environment's, `OPENAI_BASE_URL` and `OPENAI_API_KEY`, so that no card holds them.
    """

    model: str = Field(min_length=1, description="As the server calls it")
    languages: tuple[Language, ...] = Field(LANGUAGES, min_length=1)
    lengths: tuple[Length, ...] = Field(
        ("short",),
        min_length=1,
        description="short: where a language is missing; long: for every image, beside its short caption in the same language",
    )
    instructions: str = Field("", description="Put before what is asked, e.g. how to name the style of all images")
    at_once: int = Field(8, ge=1, le=256, description="Requests under way, per worker")
    per_minute: float | None = Field(
        None, gt=0, description="Requests a minute, of all workers together; null: no limit"
    )
    timeout_s: float = Field(120.0, gt=0, description="For one answer")
    patience_s: float = Field(300.0, ge=0, description="How long a server that is away or busy is asked again")
    request: dict[str, Any] = Field(
        {"temperature": 0, "max_tokens": 800}, description="Further fields of every request, as the server knows them"
    )

    def work(self) -> dict[str, Any]:
        """What decides which captions it writes, and not how fast."""
        return self.model_dump(mode="json", exclude={"at_once", "per_minute", "timeout_s", "patience_s"})


class FillCaptions(Frozen):
    """A missing language, written by models of transformers, each a folder or a hub id, or by a served one.

    Translated where the other language is there and a translator is named, or else read off the image.
    """

    en_to_zh: str | None = Field(None, description="Translates English captions, e.g. a Marian or NLLB model")
    zh_to_en: str | None = Field(None, description="Translates Chinese captions")
    image_to_en: str | None = Field(None, description="Describes images in English, e.g. BLIP, GIT or ViT-GPT2")
    image_to_zh: str | None = Field(None, description="Describes images in Chinese")
    prefix: str = Field("", description="Put before every text to translate, where the model wants a task named")
    prompt_en: str = Field("", description="What image_to_en is asked, if it chats, or the words it goes on from")
    prompt_zh: str = Field("", description="The same for image_to_zh")
    max_tokens: int = Field(96, ge=4, le=1024)
    server: CaptionServer | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Describes images in both languages, in place of image_to_XX",
    )

    @model_validator(mode="after")
    def _one_describes(self) -> "FillCaptions":
        if self.server is not None and (self.image_to_en or self.image_to_zh):
            raise ValueError("name either server or image_to_en and image_to_zh, not both")
        return self

    def work(self) -> dict[str, Any]:
        """What decides which captions are written."""
        return self.model_dump() | ({} if self.server is None else {"server": self.server.work()})

    @property
    def describes(self) -> bool:
        """Whether an image without any caption can get one."""
        return bool(self.image_to_en or self.image_to_zh or self.server)
