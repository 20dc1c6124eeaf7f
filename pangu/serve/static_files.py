"""The files of the pages as they lie in the package, and what browsers are told of all of them. No web framework."""

from importlib.resources import files

OURS, CONSOLE, SWAGGER = ("pangu", "serve/static"), ("pangu", "console/static"), ("fastapi_offline", "static")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
SHARED = {
    "pangu.css": (OURS, "pangu.css", "text/css"),
    "shared.js": (OURS, "shared.js", "text/javascript"),
    "words.js": (OURS, "words.js", "text/javascript"),
}
"""What every page loads: name -> (package and folder, file, media type)."""
ICON = (OURS, "favicon.svg", "image/svg+xml")


def content(place: tuple[tuple[str, str], str, str]) -> tuple[bytes, str]:
    """(a file, its media type)."""
    (package, folder), name, media_type = place
    return (files(package) / folder / name).read_bytes(), media_type
