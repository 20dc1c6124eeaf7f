"""Who may ask what of the pages: a server on loopback is reached by every page of every browser on the machine.

Two doors are shut: another site's page that sends requests here, and a name of another site that resolves to loopback. What only
the owner may see or do asks for the key of the home, which lies in a file that only the owner reads.
"""

import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pangu.serve.same_site import is_foreign
from pangu.serve.static_files import HEADERS
from pangu.storage import Home

HOSTS = ("127.0.0.1", "localhost", "::1")
READING = ("GET", "HEAD")
API = "/api/"


class Guard:
    """Refuses what none of our pages asks, and says to browsers what may be done with an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = refusal(scope["method"], scope["path"], Headers(scope=scope))
        if reason:
            await problem(403, reason)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def refusal(method: str, path: str, headers: Mapping[str, str]) -> str:
    """Why a request is not answered, in a sentence; "" for one that is."""
    host = headers.get("host", "")
    if name_of(host) not in HOSTS:
        return "This server answers under the names of loopback alone: 127.0.0.1 and localhost."
    reads = method in READING
    if reads and not path.startswith(API):
        return ""
    if is_foreign(headers):
        return "Pages of other sites may not ask this server."
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return "Pages of other sites may not ask this server."
    if not reads and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "The body must be JSON, with the header Content-Type: application/json."
    return ""


def name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def problem(status: int, message: str, param: str | None = None) -> JSONResponse:
    """An error object in the shape of the API's."""
    return JSONResponse({"error": {"message": message, "param": param}}, status_code=status)


def key_file(home: Home) -> Path:
    """Where the key of a home's pages lies."""
    return home.stack / "console_key"


def key_of(home: Home) -> str:
    """The key of a home's pages, made at the first call."""
    path = key_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(24))
    return path.read_text().strip()


def may(home: Home, authorization: str | None) -> bool:
    """Whether the value of an Authorization header is the key's."""
    scheme, _, token = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), key_of(home).encode())
