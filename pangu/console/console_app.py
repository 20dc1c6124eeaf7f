"""The application of the pages: routes and status codes. What they show comes from the files beside this one, in threads.

Pages are static files that ask `/api`; an address with an unknown dataset in it gets the page of what is not there.
"""

import asyncio
import errno
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pangu.console.console_guard import API, Guard, may, problem
from pangu.console.overview import overview, pictures
from pangu.errors import UserError
from pangu.serve.static_files import CONSOLE, ICON, SHARED, content
from pangu.stack.model import Stack
from pangu.storage import Home, read_json

FILES = {
    **SHARED,
    "console_words.js": (CONSOLE, "console_words.js", "text/javascript"),
    "home.js": (CONSOLE, "home.js", "text/javascript"),
    "datasets.js": (CONSOLE, "datasets.js", "text/javascript"),
    "absent.js": (CONSOLE, "absent.js", "text/javascript"),
    "training.js": (CONSOLE, "training.js", "text/javascript"),
    "favicon.svg": ICON,
}
"""Below /static/."""
MOST_BODY_BYTES = 16_384
REFILTER_S = 3600.0
PREVIEW_S = 300.0
FRESH_S = 2.0
"""Several tabs that ask within this time get one answer."""
Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def build_console(home: Home) -> Starlette:
    """The pages of a home, whether its stack runs or not."""
    views = _Views(home)
    routes = [
        Route("/", views.page("home")),
        Route("/datasets", views.page("datasets")),
        Route("/datasets/{name}", views.dataset_page),
        Route("/datasets/{name}/{version:int}", views.dataset_page),
        Route("/training", views.page("training")),
        Route("/static/{name}", views.static),
        Route("/favicon.ico", views.icon),
        Route("/healthz", views.healthz),
        Route(f"{API}overview", views.overview),
        Route(f"{API}release.png", views.release_picture),
        Route(f"{API}ray-token", views.ray_token),
        Route(f"{API}key", views.check_key),
        Route(f"{API}datasets/{{name}}", views.newest_version),
        Route(f"{API}datasets/{{name}}/{{version:int}}", views.version),
        Route(f"{API}datasets/{{name}}/{{version:int}}/rows/{{kind}}", views.rows),
        Route(f"{API}datasets/{{name}}/{{version:int}}/rows/{{kind}}/{{place:int}}", views.row_picture),
        Route(f"{API}datasets/{{name}}/{{version:int}}/preview", views.preview, methods=["POST"]),
        Route(f"{API}datasets/{{name}}/{{version:int}}/refilter", views.refilter, methods=["POST"]),
        Route(f"{API}sheets/{{name}}", views.sheet),
        Route(f"{API}trainings", views.trainings),
        Route(f"{API}trainings/{{run}}/curves", views.curves),
        Route(f"{API}trainings/{{run}}/captions", views.captions),
        Route(f"{API}trainings/{{run}}/grids/{{step:int}}", views.grid),
    ]
    handlers: Any = {
        HTTPException: views.not_there,
        UserError: views.user_error,
        OSError: views.no_room,
        Exception: views.broken,
    }
    return Starlette(routes=routes, middleware=[Middleware(Guard)], exception_handlers=handlers)


class _Views:
    """The answers; `home` is whose."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._looking = asyncio.Semaphore(1)
        self._known: tuple[float, dict[str, Any]] | None = None
        self._asking = asyncio.Lock()

    def page(self, name: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return _page(name)

        return answer

    async def dataset_page(self, request: Request) -> Response:
        from pangu.console.dataset_views import entry_in, versions_of

        name, version = request.path_params["name"], request.path_params.get("version")
        try:
            entries = await run_in_threadpool(versions_of, self._home, name)
            if version is not None:
                entry_in(entries, name, version)
        except UserError:
            return _page("absent", 404)
        return _page("datasets")

    async def static(self, request: Request) -> Response:
        place = FILES.get(request.path_params["name"])
        if place is None:
            raise HTTPException(404)
        file, media_type = content(place)
        return Response(file, media_type=media_type)

    async def icon(self, request: Request) -> Response:
        file, media_type = content(ICON)
        return Response(file, media_type=media_type)

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def overview(self, request: Request) -> Response:
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._known is None or now - self._known[0] > FRESH_S:
                found = await run_in_threadpool(overview, self._home)
                self._known = asyncio.get_running_loop().time(), found
        return JSONResponse(self._known[1])

    async def release_picture(self, request: Request) -> Response:
        found = await run_in_threadpool(pictures, self._home)
        if found is None:
            raise HTTPException(404)
        return Response(found, media_type="image/png")

    async def ray_token(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        stack = Stack.load(self._home)
        if stack is None or not stack.is_running:
            return problem(404, f"No stack is running under {self._home.root}; start it with `pangu up`.")
        return JSONResponse({"token": stack.token})

    async def check_key(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"ok": True})

    async def newest_version(self, request: Request) -> Response:
        from pangu.console.dataset_views import versions_of

        entries = await run_in_threadpool(versions_of, self._home, request.path_params["name"])
        readable = [entry.version for entry in entries if entry.readable]
        if not readable:
            raise UserError("No version of this dataset is readable any more; run `pangu prepare` with its card.")
        return JSONResponse({"version": max(readable)})

    async def version(self, request: Request) -> Response:
        from pangu.console.dataset_views import described

        return JSONResponse(await run_in_threadpool(described, self._home, *_version(request)))

    async def rows(self, request: Request) -> Response:
        from pangu.console.dataset_views import as_kind, listed, page

        kind, asked = as_kind(request.path_params["kind"]), request.query_params
        if places := asked.get("places"):
            chosen = [_whole(one, "places") for one in places.split(",")[:50]]
            return JSONResponse({"rows": await run_in_threadpool(listed, self._home, *_version(request), kind, chosen)})
        number = _whole(asked.get("page", "0"), "page")
        found = await run_in_threadpool(page, self._home, *_version(request), kind, number, asked.get("reason", ""))
        return JSONResponse(found)

    async def row_picture(self, request: Request) -> Response:
        from pangu.console.dataset_views import as_kind, picture

        kind, place = as_kind(request.path_params["kind"]), request.path_params["place"]
        small = "small" in request.query_params
        file, media_type = await run_in_threadpool(picture, self._home, *_version(request), kind, place, small)
        return Response(file, media_type=media_type)

    async def preview(self, request: Request) -> Response:
        """Anybody may look; one at a time, because each takes memory and a core."""
        changes = await _changes(request)
        async with self._looking:
            return await self._selected(request, changes, ["--dry-run"], PREVIEW_S)

    async def refilter(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        changes = await _changes(request)
        # Whoever closes the page does not end what it began.
        return await asyncio.shield(self._selected(request, changes, [], REFILTER_S))

    async def _selected(self, request: Request, changes: dict[str, Any], more: list[str], seconds: float) -> Response:
        """`pangu dataset refilter` in a process of its own, whose memory goes with it."""
        name, version = _version(request)
        from pangu.console.dataset_views import check_name

        check_name(self._home, name)
        given = [f"--set={field}={json.dumps(value)}" for field, value in changes.items()]
        with TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = ["dataset", "refilter", name, f"--version={version}", f"--result={result}", *given, *more]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pangu", *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                _, said = await asyncio.wait_for(process.communicate(), seconds)
            except TimeoutError:
                return problem(
                    504, f"It was not done within {seconds:.0f} s; run `pangu dataset refilter` in a terminal."
                )
            finally:
                if process.returncode is None:
                    process.kill()
            if process.returncode == 0:
                return JSONResponse(read_json(result))
        return _failed(process.returncode, said.decode(errors="replace"))

    async def trainings(self, request: Request) -> Response:
        from pangu.console.training_views import trainings

        return JSONResponse({"trainings": await run_in_threadpool(trainings, self._home)})

    async def curves(self, request: Request) -> Response:
        from pangu.console.training_views import curves

        return JSONResponse(await run_in_threadpool(curves, self._home, request.path_params["run"]))

    async def captions(self, request: Request) -> Response:
        from pangu.console.training_views import captions

        return JSONResponse(await run_in_threadpool(captions, self._home, request.path_params["run"]))

    async def grid(self, request: Request) -> Response:
        from pangu.console.training_views import grid

        ask = partial(grid, self._home, request.path_params["run"], request.path_params["step"])
        return Response(await run_in_threadpool(ask), media_type="image/png")

    async def sheet(self, request: Request) -> Response:
        from pangu.console.training_views import sheet

        found = await run_in_threadpool(sheet, self._home, request.path_params["name"])
        return Response(found, media_type="image/png")

    async def not_there(self, request: Request, error: HTTPException) -> Response:
        if request.url.path.startswith((API, "/static/")):
            return problem(error.status_code, "There is no such path." if error.status_code == 404 else error.detail)
        return _page("absent", error.status_code)

    async def user_error(self, request: Request, error: UserError) -> Response:
        """What is asked for is not there: a sentence says what is."""
        return problem(404 if request.method in ("GET", "HEAD") else 400, str(error))

    async def no_room(self, request: Request, error: OSError) -> Response:
        """A disk that is full is the owner's business; any other is ours."""
        if error.errno != errno.ENOSPC:
            return await self.broken(request, error)
        return problem(507, "The disk is full; make room, e.g. by `pangu dataset vacuum NAME`, and ask again.")

    async def broken(self, request: Request, error: Exception) -> Response:
        logger.error("a page could not be answered", exc_info=error)
        return problem(500, f"The page could not be made; see the log console.log in {self._home.logs}.")

    def _refused(self, request: Request) -> Response | None:
        if may(self._home, request.headers.get("authorization")):
            return None
        return problem(401, "This asks for the key that `pangu up` and `pangu status` print with the address.", "key")


def _page(name: str, status: int = 200) -> Response:
    """A page inside what all pages share."""
    shell, main = (content((CONSOLE, file, "text/html"))[0].decode() for file in ("shell.html", f"{name}.html"))
    filled = Template(shell).substitute(title=f"{name}title", script=f"{name}.js", main=main)
    return Response(filled, status, media_type="text/html")


def _version(request: Request) -> tuple[str, int]:
    return request.path_params["name"], request.path_params["version"]


def _whole(text: str, name: str) -> int:
    """Raises UserError unless it is a number of at most nine digits."""
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        raise UserError(f"{name} must be a whole number from 0, not '{text[:20]}'.")
    return int(text)


async def _changes(request: Request) -> dict[str, Any]:
    """Filter -> value or null, from a JSON body.

    Raises:
        UserError: it is none.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise UserError(f"The body must not be longer than {MOST_BODY_BYTES} bytes.")
    try:
        changes = json.loads(body)["filters"]
    except (ValueError, KeyError, TypeError, RecursionError):
        changes = None
    plain = isinstance(changes, dict) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in changes.values()
    )
    if not plain:
        raise UserError('The body must be {"filters": {NAME: NUMBER or null}}.')
    return dict(changes)


def _failed(code: int | None, said: str) -> Response:
    """The last sentence of a command that failed; `param` is the filter that it names."""
    lines = [line.removeprefix("pangu: ") for line in said.splitlines() if line.startswith("pangu: ")]
    if code != 2 or not lines:
        logger.error("pangu dataset refilter ended with %s: %s", code, said[-2000:])
        return problem(500, f"The command ended with {code}; its last words: {said.strip()[-300:]}")
    _, quote, rest = lines[-1].partition("'filters.")
    return problem(400, lines[-1], rest.partition("'")[0] if quote else None)
