"""`pangu serve`: a pair folder behind HTTP in this one process, without Ray and without a registry."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.errors import UserError
from pangu.extras import MODULES, is_findable, missing
from pangu.serve.api import build_api
from pangu.serve.api.keys import KeyRing
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import ReleaseRouting
from pangu.serve.inference.parts import load_unchecked, release_of
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)
Loaded = Callable[[UserError | None], None]
"""Called once: with None when the pair has drawn its first image, or with why it never will."""


def standalone_api(folder: Path, settings: ServeSettings, loaded: Loaded = lambda _: None) -> "FastAPI":
    """The application over one pair folder; it loads the pair when it starts, and answers 503 until that is done.

    Raises:
        UserError: the folder is no pair, or the keys can not be read.
    """
    check_folder(folder)
    metrics = Metrics()
    engine = LocalEngine(settings, metrics, load=load_unchecked)
    routing = ReleaseRouting(champion=release_of(folder))
    api = build_api(engine, metrics, KeyRing.of(settings), settings)

    async def load() -> None:
        try:
            await engine.take(routing)
            if routing.champion.sha256 not in engine.warmed:
                await engine.first_image(routing.champion)
        except Exception as error:
            logger.debug("the pair can not be served", exc_info=error)
            reason = " ".join(str(error).split()) or type(error).__name__
            loaded(UserError(f"The pair in {folder} can not be served: {reason}"))
        else:
            loaded(None)

    own = api.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        try:
            async with own(app):
                yield
        finally:
            loading.cancel()
            engine.close()

    api.router.lifespan_context = lifespan
    return api


def check_folder(folder: Path) -> None:
    """Raises UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is {'no folder' if folder.exists() else 'not there'}; give the folder of a pair.")


def check_extras(settings: ServeSettings) -> None:
    """Raises MissingExtra if a setting asks for what the core does without, before anything is loaded."""
    for name, asked, modules in (
        ("loras", bool(settings.loras), ("peft",)),
        ("moderation", settings.moderation.max_score is not None, ("imagehash", "nudenet")),
        ("enhance", settings.enhance is not None, ("httpx",)),
    ):
        for module in modules:
            if asked and not is_findable(module):
                raise missing(MODULES[module][0], f"The setting `{name}`")


def check_port(host: str, port: int) -> None:
    """Raises UserError if nobody could listen there now; uvicorn would say it in a log line of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"Port {port} of {host} can not be listened on ({error.strerror}); choose another --port."
        ) from error


def serve(folder: Path, port: int, settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Answer until interrupted, then finish what was accepted.

    say: takes a sentence for people, when the pair begins to load and when it can be drawn with.

    Raises:
        UserError: as `standalone_api`, a setting needs an extra that is not installed, the port can not be listened on, or the
            pair can not be loaded or draws nothing.
    """
    check_folder(folder)
    check_extras(settings)
    check_port(settings.host, port)
    from pangu.models.sources import without_bars
    from pangu.serve.connections import server_of

    without_bars()
    failures: list[UserError] = []

    def loaded(failure: UserError | None) -> None:
        if failure is None:
            say(f"Ready: {url}/studio to draw, {url}/v1 for OpenAI's clients, {url}/docs. End it with Ctrl+C.")
        else:
            failures.append(failure)
            server.should_exit = True

    url = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
    server = server_of(standalone_api(folder, settings, loaded), settings, port)
    say(f"Loading {folder} ...")
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if failures:
        raise failures[0]
