"""`/studio`: the page to draw with. Three static files of this package; nothing is fetched from anywhere else."""

from importlib.resources import files

from fastapi import FastAPI, Response

from pangu.serve.errors import ApiError

FILES = {
    "index.html": "text/html",
    "studio.css": "text/css",
    "studio.js": "text/javascript",
    "words.js": "text/javascript",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'"
)


def add_to(api: FastAPI) -> None:
    """Put the page on `api`."""

    @api.get("/studio", include_in_schema=False)
    async def page() -> Response:
        return _static("index.html")

    @api.get("/studio/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _static(name)


def _static(name: str) -> Response:
    if name not in FILES:
        raise ApiError(404, "There is no such path; see /docs.", code="not_found")
    content = (files("pangu") / "serve" / "static" / name).read_bytes()
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(content, media_type=f"{FILES[name]}; charset=utf-8", headers=headers)
