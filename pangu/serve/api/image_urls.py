"""Images that are answered as URLs: kept in memory for a bounded time, under names that nobody can guess.

Whoever knows the URL may fetch the image, with no key, as with OpenAI's; clients hand such URLs to browsers and downloaders.
"""

import base64
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from fastapi import FastAPI, Request, Response

from pangu.bounded_cache import BoundedCache
from pangu.serve.error_answers import ApiError, ErrorBody
from pangu.serve.settings import ServeSettings

PATH = "/v1/images/files"
ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


class _Kept(NamedTuple):
    """An image file, and when its time is over on the clock of its owner."""

    file: bytes
    media_type: str
    until: float


class ImageUrls:
    """Holds images for `settings.url_s` seconds, and `settings.url_bytes` bytes of them, the oldest going first.

    now: a clock in seconds.
    """

    def __init__(self, settings: ServeSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._kept: BoundedCache[str, _Kept] = BoundedCache(settings.url_bytes, lambda kept: len(kept.file))

    def url_of(self, file: bytes, output_format: str, base_url: str) -> str:
        """A URL below `base_url`, the address of this server; a data: URL where the owner wants no files kept."""
        media_type = f"image/{output_format}"
        if self._settings.url_s == 0:
            return f"data:{media_type};base64,{base64.b64encode(file).decode()}"
        name = f"{secrets.token_urlsafe(24)}.{ENDINGS[output_format]}"
        now = self._now()
        self._kept.drop_where(lambda kept: kept.until <= now)
        self._kept.keep(name, _Kept(file, media_type, now + self._settings.url_s))
        return f"{(self._settings.public_url or base_url).rstrip('/')}{PATH}/{name}"

    def find(self, name: str) -> tuple[bytes, str] | None:
        """(the file, its media type); None where it is not or no longer kept."""
        kept = self._kept.get(name)
        return None if kept is None or kept.until <= self._now() else (kept.file, kept.media_type)

    def add_to(self, api: FastAPI) -> None:
        """Put the route that answers the URLs on `api`."""

        @api.get(f"{PATH}/{{name}}", responses={200: {"content": {"image/*": {}}}, 404: {"model": ErrorBody}})
        async def image_file(name: str) -> Response:
            kept = self.find(name)
            if kept is None:
                raise ApiError(404, "There is no such image, or no longer; draw it again.", code="not_found")
            headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
            return Response(kept[0], media_type=kept[1], headers=headers)


def address_of(request: Request) -> str:
    """Scheme, host and root path that the client used for this server."""
    return str(request.base_url)
