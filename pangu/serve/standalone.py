"""`pangu serve`: a pair folder behind HTTP in this one process, without Ray and without a registry."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.errors import UserError
from pangu.serve.api import build_api
from pangu.serve.api.keys import KeyRing
from pangu.serve.drawing.local import LocalStudio
from pangu.serve.drawing.messages import Lineup
from pangu.serve.drawing.parts import load_unchecked, release_of
from pangu.serve.metrics import Metrics
from pangu.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI


def standalone_api(folder: Path, settings: ServeSettings) -> "FastAPI":
    """The application over one pair folder; it loads the pair when it starts, and answers 503 until that is done.

    Raises:
        UserError: the folder is no pair, or the keys can not be read.
    """
    metrics = Metrics()
    studio = LocalStudio(settings, metrics, load=load_unchecked)
    lineup = Lineup(champion=release_of(folder))
    api = build_api(studio, metrics, KeyRing.of(settings), settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        loading = asyncio.create_task(studio.take(lineup))
        try:
            yield
        finally:
            loading.cancel()
            studio.close()

    api.router.lifespan_context = lifespan
    return api


def check_port(host: str, port: int) -> None:
    """Raises UserError if nobody could listen there now; uvicorn would say it in a log line of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"Port {port} of {host} can not be listened on ({error.strerror}); choose another --port."
        ) from error


def serve(folder: Path, port: int, settings: ServeSettings) -> None:
    """Answer until interrupted, then finish what was accepted.

    Raises:
        UserError: as `standalone_api`, or the port can not be listened on.
    """
    import uvicorn

    check_port(settings.host, port)
    uvicorn.run(
        standalone_api(folder, settings),
        host=settings.host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=int(settings.drain_s),
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=8 * settings.max_in_flight + 64,
    )
