"""Which URL is asked for where a table or a server names one: what a browser would ask for. Pure; nothing is resolved or opened.

Parsing, quoting, international host names and odd spellings of addresses follow the URL standard (https://url.spec.whatwg.org);
ada does the work.
"""

import re
import urllib.parse
from contextlib import suppress

import ada_url

MAX_URL_LENGTH = 8192
"""Characters, as listed and as asked for."""
DEFAULT_PORTS = {"http": 80, "https": 443}
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Control characters but for tab and newline, which the standard drops."""


class Failed(Exception):
    """A download that ends here; `reason` is one word to count under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def requested_url(url: str) -> str:
    """The http(s) URL that is asked for, in ASCII and without its fragment; of such a URL, itself.

    Stricter than the standard: two slashes after the scheme, no user name, no control characters, no host name with an empty or
    overlong label.

    Raises:
        Failed: missing_url, bad_url or refused_scheme.
    """
    if not url:
        raise Failed("missing_url")
    if len(url) > MAX_URL_LENGTH or CONTROL.search(url):
        raise Failed("bad_url", "too long, or with control characters")
    url = re.sub(r"[\t\n\r]", "", url).strip(" ")
    scheme, _, rest = url.partition(":")
    if scheme.lower() not in DEFAULT_PORTS:
        raise Failed("refused_scheme", scheme)
    if not re.match(r"[/\\]{2}[^/\\]", rest):
        raise Failed("bad_url", "no host")
    try:
        parsed = ada_url.URL(url)
        parsed.hostname.encode("idna")  # as the resolver will; it is ASCII, so only empty and long labels are refused
    except ValueError as error:
        raise Failed("bad_url", str(error)) from error
    if parsed.username or parsed.password:
        raise Failed("bad_url", "with a user name")
    parsed.hash = ""
    asked = parsed.href
    if len(asked) > MAX_URL_LENGTH:
        raise Failed("bad_url", "too long")
    return asked


def requested_or_same(url: str) -> str:
    """The URL that is asked for; one that is refused stays as it is."""
    with suppress(Failed):
        return requested_url(url)
    return url


def redirect_target(asked: str, location: str) -> str:
    """Where a redirect leads: an absolute URL, with whatever scheme and host it names.

    location: the header as `http.client` gives it, a character for each byte; bytes beyond ASCII are taken as they are.

    Raises:
        Failed: bad_url.
    """
    ascii_only = re.sub(r"[^\x00-\x7f]", lambda byte: f"%{ord(byte[0]):02X}", location)
    try:
        return ada_url.join_url(asked, ascii_only)
    except ValueError as error:
        raise Failed("bad_url", str(error)) from error


def origin_of(asked: str) -> tuple[str, int]:
    """Host, without brackets or a dot at its end, and port of a requested URL."""
    parts = urllib.parse.urlsplit(asked)
    host, port = parts.hostname or "", parts.port
    return host.rstrip("."), DEFAULT_PORTS[parts.scheme] if port is None else port


def asked_host(host: str) -> str:
    """A host as `origin_of` names it, whatever its spelling; unchanged if it is more or less than a host."""
    authority = f"[{host}]" if host.count(":") > 1 else host
    try:
        name, port = origin_of(requested_url(f"http://{authority}:1/"))
    except Failed:
        return host
    return name if port == 1 else host
