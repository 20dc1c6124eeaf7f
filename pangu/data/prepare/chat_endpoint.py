"""One question to a chat model behind OpenAI's protocol, asked again while the server is away or busy."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from pangu.chat_completions import text_of
from pangu.data.fill_captions import CaptionServer
from pangu.errors import UserError

ADDRESS, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
"""Variables that OpenAI's own clients read, too."""
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE_S = 60.0


class Away(Exception):
    """The server cannot be reached, or says that it is busy; `wait_s` if it says for how long."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Door:
    """Where a server is, what opens it, and how much of it is one worker's: sent to workers, wherever they run.

    share: of the requests a minute; workers that know nothing of each other divide them. kept: where answers lie; None: nowhere.
    """

    address: str
    key: str = field(default="", repr=False)
    share: float = 1.0
    kept: Path | None = None

    @classmethod
    def from_environment(cls, share: float = 1.0, kept: Path | None = None) -> "Door":
        """Raises UserError if the environment names no address, or one that is none of http(s)."""
        address = os.environ.get(ADDRESS, "").rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise UserError(
                f"fill_captions.server asks the server that {ADDRESS} names, which is {address!r}; set it to an address of "
                "OpenAI's protocol, e.g. http://127.0.0.1:8000/v1."
            )
        return cls(address, os.environ.get(KEY, ""), share, kept)


class ChatEndpoint:
    """A client that several threads share."""

    def __init__(self, settings: CaptionServer, door: Door) -> None:
        self._settings, self.address = settings, door.address
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {door.key}"} if door.key else {}, timeout=settings.timeout_s,
            limits=httpx.Limits(max_connections=settings.at_once),
        )  # fmt: skip
        self._pace = Pace(60 / (settings.per_minute * door.share) if settings.per_minute else 0.0)
        self._formats = True

    def ask(self, content: list[dict[str, Any]], schema: dict[str, Any]) -> str:
        """The text of the answer.

        Args:
            content: Parts of one message of a user, as the protocol has them.
            schema: JSON schema of the answer; left out from then on where the server knows no `response_format`.

        Raises:
            UserError: the server stays away for `patience_s`, refuses, or answers something else than a chat completion.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(Away),
            stop=stop_after_delay(self._settings.patience_s),
            wait=_pause,
            reraise=True,
        )
        try:
            return attempts(self._once, content, schema)
        except Away as error:
            raise UserError(
                f"The captioning server {self.address} is away ({error}); what it has written is kept, and the same command "
                "goes on from there once it answers again."
            ) from error

    def _once(self, content: list[dict[str, Any]], schema: dict[str, Any]) -> str:
        self._pace.wait()
        answer = self._post(content, schema if self._formats else None)
        if answer.status_code in (400, 422) and self._formats and "response_format" in answer.text:
            self._formats = False
            answer = self._post(content, None)
        if answer.status_code in BUSY:
            raise Away(f"status {answer.status_code}", _retry_after(answer))
        if not answer.is_success:
            raise UserError(
                f"The captioning server {self.address} refuses with status {answer.status_code}: {_excerpt(answer.text)}; check "
                f"{ADDRESS}, {KEY} and fill_captions.server."
            )
        return self._text(answer)

    def _post(self, content: list[dict[str, Any]], schema: dict[str, Any] | None) -> httpx.Response:
        body: dict[str, Any] = {
            "model": self._settings.model, "messages": [{"role": "user", "content": content}], **self._settings.request
        }  # fmt: skip
        if schema is not None:
            named = {"name": "captions", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            return self._client.post(f"{self.address}/chat/completions", json=body)
        except httpx.TransportError as error:
            raise Away(" ".join(str(error).split()) or type(error).__name__) from error

    def _text(self, answer: httpx.Response) -> str:
        try:
            return text_of(answer.json())
        except ValueError as error:
            raise UserError(
                f"{self.address}/chat/completions answers no chat completion but {_excerpt(answer.text)}; {ADDRESS} must name a "
                "server of OpenAI's protocol, up to and with its /v1."
            ) from error


class Pace:
    """At most one start in so many seconds, whichever thread asks; 0: no limit."""

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._seconds, self._clock, self._sleep = seconds, clock, sleep
        self._next, self._lock = clock(), threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = self._clock()
            mine, self._next = max(self._next, now), max(self._next, now) + self._seconds
        if mine > now:
            self._sleep(mine - now)


_backoff = wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_S)


def _pause(state: RetryCallState) -> float:
    """As long as the server asks for, or longer with every attempt."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, Away) and error.wait_s is not None:
        return min(error.wait_s, LONGEST_PAUSE_S)
    return _backoff(state)


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds of the header of that name, where it has a number (RFC 9110, 10.2.3)."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.replace(".", "", 1).isdecimal() else None


def _excerpt(text: str) -> str:
    return repr(" ".join(text.split())[:120])
