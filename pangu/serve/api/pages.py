"""What a browser gets: `/studio`, the page to draw with, `/docs`, by Swagger UI, and an icon. Nothing of it lies elsewhere."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

from pangu.extras import is_findable, missing
from pangu.serve.error_answers import ApiError

OURS, SWAGGER = ("pangu", "serve/static"), ("fastapi_offline", "static")
FILES = {
    "studio": (OURS, "index.html", "text/html"),
    "studio/index.html": (OURS, "index.html", "text/html"),
    "studio/studio.css": (OURS, "studio.css", "text/css"),
    "studio/studio.js": (OURS, "studio.js", "text/javascript"),
    "studio/words.js": (OURS, "words.js", "text/javascript"),
    "docs": (OURS, "docs.html", "text/html"),
    "docs/docs.js": (OURS, "docs.js", "text/javascript"),
    "docs/swagger-ui.css": (SWAGGER, "swagger-ui.css", "text/css"),
    "docs/swagger-ui-bundle.js": (SWAGGER, "swagger-ui-bundle.js", "text/javascript"),
    "favicon.svg": (OURS, "favicon.svg", "image/svg+xml"),
    "favicon.ico": (OURS, "favicon.svg", "image/svg+xml"),
    "robots.txt": (OURS, "robots.txt", "text/plain"),
}
"""Path -> (package and folder, file, media type). Swagger UI comes with fastapi-offline, so it needs no network;
without that package `/docs` lists the paths."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'"
)


def add_to(api: FastAPI) -> None:
    """Put the pages on `api`; `/` leads to the studio."""

    @api.get("/", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("/studio")

    for path in FILES:
        api.add_api_route(f"/{path}", _route(path), include_in_schema=False)


def _route(path: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return static(path)

    return page


def static(path: str) -> Response:
    """One of `FILES`."""
    (package, folder), name, media_type = FILES[path]
    if not is_findable(package):  # docs.js lists the paths itself then
        raise ApiError(404, str(missing("platform", "Swagger UI")), code="missing_extra")
    content = (files(package) / folder / name).read_bytes()
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(content, media_type=media_type, headers=headers)
