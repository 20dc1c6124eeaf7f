"""What holds for every request before it reaches a route, on uvicorn as behind the proxy of Ray Serve."""

import asyncio
import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pangu.serve.api import bounds
from pangu.serve.api.refusals import answer_with
from pangu.serve.error_answers import body_too_slow, foreign_page, overloaded
from pangu.serve.prometheus import Metrics
from pangu.serve.same_site import is_foreign

logger = logging.getLogger(__name__)
OVER_LIMIT = "over_limit"
"""In the state of a scope whose connection is one too many (`pangu.serve.connections`)."""
ALWAYS_ANSWERED = ("/healthz", "/readyz", "/metrics")
RETRY_AFTER_S = 2


class RequestMiddleware:
    """Refuses connections that are too many, gives up on bodies that do not arrive, and answers HEAD as GET without its body."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope.get("state", {}).get(OVER_LIMIT) and scope["path"] not in ALWAYS_ANSWERED:
            refusal = answer_with(self._metrics, overloaded(RETRY_AFTER_S))
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send)
        elif scope["method"] == "POST" and _sent_by_another_site(Headers(scope=scope)):
            await answer_with(self._metrics, foreign_page())(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, _without_body(send))
        else:
            await self._app(scope, in_time(receive, bounds.MAX_BODY_S), _to_whoever_is_there(send))


def _sent_by_another_site(headers: Headers) -> bool:
    """A form of any page may reach a server on loopback; only whoever has a key can have meant it."""
    return is_foreign(headers) and "authorization" not in headers


def in_time(receive: Receive, seconds: float) -> Receive:
    """`receive` that waits no longer than `seconds` for the whole body; what comes after it may take any time.

    Behind Ray Serve it fails where the proxy has dropped the request, instead of saying that the client left.

    Raises:
        ApiError: 408, from the call that waited too long.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    whole = False

    async def timed() -> Message:
        nonlocal whole
        try:
            async with asyncio.timeout_at(None if whole else deadline):
                try:
                    message = await receive()
                except Exception as error:
                    logger.info("a request can not be received any more: %r", error)
                    message = {"type": "http.disconnect"}
        except TimeoutError:
            raise body_too_slow(seconds) from None
        whole = not message.get("more_body", False)
        return message

    return timed


def _to_whoever_is_there(send: Send) -> Send:
    """`send` that does nothing where it fails, as uvicorn's own: `receive` says that the client left."""

    async def sent(message: Message) -> None:
        try:
            await send(message)
        except Exception as error:
            logger.warning("an answer can not be sent any more: %r", error)

    return sent


def _without_body(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent
