"""Prompts made fuller by a chat model that the server declares; without a useful answer in time a prompt stays as it is."""

import asyncio
import json
import os
import re
from functools import cached_property
from typing import Any

from pangu.chat_completions import text_of
from pangu.errors import UserError
from pangu.serve.settings import EnhanceSettings

MOST_BYTES = 64 * 2**10
"""Of an answer that is read."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
QUOTES = "\"'“”„‘’「」"


class NotEnhanced(UserError):
    """There is no other prompt; the sentence says why."""


class PromptEnhancer:
    """Asks the declared address, and nothing else: no proxy of the environment, no redirect."""

    def __init__(self, settings: EnhanceSettings | None) -> None:
        self._settings = settings

    @cached_property
    def _verify(self) -> Any:
        """What certificates are checked with: read once, because that costs as much as a small picture."""
        import httpx

        assert self._settings is not None
        return httpx.create_ssl_context() if self._settings.address.startswith("https:") else False

    async def revised(self, prompt: str) -> str:
        """The prompt as the chat model words it.

        Raises:
            NotEnhanced: no endpoint is declared, it is away, too slow, or answers nothing that a prompt could be.
        """
        import httpx

        settings = self._settings
        if settings is None:
            raise NotEnhanced("this server declares no endpoint for it")
        try:
            async with asyncio.timeout(settings.timeout_s):
                answer = await _posted(settings, prompt, self._verify)
        except TimeoutError:
            raise NotEnhanced(f"the endpoint did not answer within {settings.timeout_s:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise NotEnhanced(f"the endpoint could not be asked ({type(error).__name__})") from error
        try:
            text = " ".join(CONTROL.sub(" ", text_of(json.loads(answer))).split()).strip(QUOTES)
            text.encode()
        except ValueError as error:
            raise NotEnhanced("the endpoint answered no chat completion") from error
        if not text.strip():
            raise NotEnhanced("the endpoint answered nothing")
        if len(text) > settings.most_chars:
            raise NotEnhanced(
                f"the endpoint answered {len(text)} characters, and at most {settings.most_chars} are taken"
            )
        return text


async def _posted(settings: EnhanceSettings, prompt: str, verify: Any) -> bytes:
    """The body of the answer, of which no more is read than a prompt could need."""
    import httpx

    key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    messages = [{"role": "system", "content": settings.instructions}, {"role": "user", "content": prompt}]
    body: dict[str, Any] = {"model": settings.model, "messages": messages, **settings.request}
    url = f"{settings.address.rstrip('/')}/chat/completions"
    async with (
        httpx.AsyncClient(verify=verify, trust_env=False, follow_redirects=False, timeout=settings.timeout_s) as client,
        client.stream("POST", url, json=body, headers=headers) as answer,
    ):
        if answer.status_code != 200:
            raise NotEnhanced(f"the endpoint answered with status {answer.status_code}")
        read = bytearray()
        async for chunk in answer.aiter_bytes():
            read += chunk
            if len(read) > MOST_BYTES:
                raise NotEnhanced(f"the endpoint answered more than {MOST_BYTES} bytes")
        return bytes(read)
