"""API keys: who may draw, how often, and how much at once.

Keys are compared as hashes and in constant time, so the time of an answer says nothing about them.
"""

import hashlib
import hmac
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.serve.error_answers import ApiError, busy
from pangu.serve.settings import ServeSettings


class ApiKey(Frozen):
    """One entry of the list: the key itself, or its SHA-256, so that the file need not hold it."""

    name: str = Field(min_length=1, max_length=64)
    key: str | None = Field(None, min_length=16, max_length=256)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: float = Field(60.0, gt=0)
    concurrent: int = Field(4, ge=1, description="Requests in flight at once")

    @model_validator(mode="after")
    def _one_of_both(self) -> "ApiKey":
        if (self.key is None) == (self.sha256 is None):
            raise ValueError(f"key '{self.name}' needs either 'key' or 'sha256'")
        return self

    @property
    def fingerprint(self) -> bytes:
        return bytes.fromhex(self.sha256) if self.sha256 else hashlib.sha256((self.key or "").encode()).digest()


KEYS = TypeAdapter(list[ApiKey])


@dataclass
class Account:
    """What one key has used. A bucket of one minute's requests fills steadily and every request takes one out of it."""

    key: ApiKey
    now: Callable[[], float] = time.monotonic
    left: float = field(init=False)
    seen: float = field(init=False)
    in_flight: int = 0

    def __post_init__(self) -> None:
        self.left, self.seen = self._most, self.now()

    @property
    def _most(self) -> float:
        return max(1.0, self.key.requests_per_minute)

    @contextmanager
    def spend(self) -> Iterator[None]:
        """One request, from acceptance to its end.

        Raises:
            ApiError: 429, with the seconds after which it would be accepted.
        """
        if self.in_flight >= self.key.concurrent:
            raise busy(1, f"This key may have {self.key.concurrent} requests in flight at once; wait for one of them.")
        per_second, now = self.key.requests_per_minute / 60, self.now()
        self.left, self.seen = min(self._most, self.left + (now - self.seen) * per_second), now
        # Rounding must not refuse whoever waited exactly as long as it was told.
        if self.left < 1 - 1e-9:
            message = f"This key may ask {self.key.requests_per_minute:g} times a minute; wait a little."
            raise busy(math.ceil((1 - self.left) / per_second), message)
        self.left = max(0.0, self.left - 1)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class KeyRing:
    """All keys of a server. Without a source everybody may draw, which only a server on loopback allows.

    A changed file is read again at the next request; one that became unusable leaves the keys as they were.
    """

    def __init__(self, file: Path | None = None, text: str | None = None) -> None:
        self._file, self._stamp = file, 0.0
        self._accounts: dict[bytes, Account] = {}
        self.needed = file is not None or text is not None
        if file is not None:
            self._stamp = _stamp_of(file)
            text = _text_of(file)
        if text is not None:
            self._take(parse_keys(text, str(file or "the keys")))

    @classmethod
    def of(cls, settings: ServeSettings) -> "KeyRing":
        """The keys that the settings name.

        Raises:
            UserError: the file or the variable is not there, or holds no list of keys.
        """
        if settings.keys_file is not None:
            return cls(file=settings.keys_file)
        if settings.keys_variable is not None:
            text = os.environ.get(settings.keys_variable)
            if text is None:
                raise UserError(f"{settings.keys_variable} is not set; it must hold the JSON list of API keys.")
            return cls(text=text)
        return cls()

    def account(self, authorization: str | None) -> Account | None:
        """Whose the value of an Authorization header is; None where no keys are needed.

        Raises:
            ApiError: 401.
        """
        if not self.needed:
            return None
        self._refresh()
        scheme, _, token = (authorization or "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
        found = None
        for known, account in self._accounts.items():
            if hmac.compare_digest(known, digest):
                found = account
        if found is None or scheme.lower() != "bearer":
            raise ApiError(
                401, "The API key is missing or wrong; send 'Authorization: Bearer KEY'.", code="invalid_api_key"
            )
        return found

    def _refresh(self) -> None:
        if self._file is None or (stamp := _stamp_of(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(parse_keys(_text_of(self._file), str(self._file)))
        except UserError:
            return

    def _take(self, keys: list[ApiKey]) -> None:
        # A key whose limits are unchanged keeps what it has used, so a new file resets nobody's count.
        old = self._accounts
        self._accounts = {
            key.fingerprint: old[key.fingerprint]
            if key.fingerprint in old and old[key.fingerprint].key == key
            else Account(key)
            for key in keys
        }


def parse_keys(text: str, where: str) -> list[ApiKey]:
    """The list of keys in a JSON text.

    Raises:
        UserError: it is none; the sentence names the first entry that is wrong, and repeats no key.
    """
    try:
        keys = KEYS.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the list"
        raise UserError(f"{where}: {place}: {first['msg']}; write [{{'name': ..., 'key': ...}}] as JSON.") from None
    except ValueError:
        raise UserError(f"{where} is no JSON; write [{{'name': ..., 'key': ...}}].") from None
    if not keys:
        raise UserError(f"{where} holds no key, so nobody could draw.")
    return keys


def _text_of(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The keys file {file} can not be read.") from error


def _stamp_of(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
