"""What a browser gets: `/studio`, the page to draw with, `/docs`, by Swagger UI, and an icon. Nothing of it lies elsewhere."""

import os
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, RedirectResponse

from pangu.extras import is_findable, missing
from pangu.serve.error_answers import ApiError
from pangu.serve.static_files import HEADERS, ICON, OURS, SHARED, SWAGGER, content

FILES = {
    "studio": (OURS, "index.html", "text/html"),
    "studio/index.html": (OURS, "index.html", "text/html"),
    "studio/studio.js": (OURS, "studio.js", "text/javascript"),
    "studio/gallery.js": (OURS, "gallery.js", "text/javascript"),
    "studio/source.js": (OURS, "source.js", "text/javascript"),
    "studio/studio_words.js": (OURS, "studio_words.js", "text/javascript"),
    **{f"studio/{name}": place for name, place in SHARED.items()},
    "docs": (OURS, "docs.html", "text/html"),
    "docs/docs.js": (OURS, "docs.js", "text/javascript"),
    "docs/swagger-ui.css": (SWAGGER, "swagger-ui.css", "text/css"),
    "docs/swagger-ui-bundle.js": (SWAGGER, "swagger-ui-bundle.js", "text/javascript"),
    "favicon.svg": ICON,
    "favicon.ico": ICON,
    "robots.txt": (OURS, "robots.txt", "text/plain"),
}
"""Path -> (package and folder, file, media type). Swagger UI comes with fastapi-offline, so it needs no network;
without that package `/docs` lists the paths."""
CONSOLE_URL = "PANGU_CONSOLE_URL"
"""The address of the stack's pages, where a stack serves this."""


def add_to(api: FastAPI) -> None:
    """Put the pages on `api`; `/` leads to the studio."""

    @api.get("/", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("/studio")

    @api.get("/studio/home.json", include_in_schema=False)
    async def home() -> Response:
        return JSONResponse({"home": os.environ.get(CONSOLE_URL)}, headers=HEADERS)

    for path in FILES:
        api.add_api_route(f"/{path}", _route(path), include_in_schema=False)


def _route(path: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return static(path)

    return page


def static(path: str) -> Response:
    """One of `FILES`."""
    file = FILES[path]
    if not is_findable(file[0][0]):  # docs.js lists the paths itself then
        raise ApiError(404, str(missing("platform", "Swagger UI")), code="missing_extra")
    body, media_type = content(file)
    return Response(body, media_type=media_type, headers=HEADERS)
