"""HTTP access to the stack's Prefect server that bears what its own clients bear: moments when the database is busy."""

import os
import time

import httpx

from pangu.stack.certificates import trusted
from pangu.stack.model import Stack

BUSY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE)
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
KEPT_ALIVE_S = 2.0
"""Prefect's server closes a connection that nobody has used for 5 s, perhaps just when it is used again."""


def prefect_api(server: Stack | str, timeout_s: float = 30) -> httpx.Client:
    """A client of the REST API of a stack's server, or of the one at an address, which may ask for what the variable
    PREFECT_API_AUTH_STRING holds; close it, or use it as a context manager."""
    address = server if isinstance(server, str) else server.prefect_api_url
    limits = httpx.Limits(keepalive_expiry=KEPT_ALIVE_S)
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    return httpx.Client(
        base_url=address,
        timeout=timeout_s,
        trust_env=False,
        transport=RetryTransport(httpx.HTTPTransport(verify=trusted(), limits=limits)),
        auth=(user, password) if user else None,
    )


class RetryTransport(httpx.BaseTransport):
    """Asks again after 502 and 503, which Prefect answers without having done anything (SQLite: "database is locked"), and
    where a connection ends without an answer to what only reads."""

    def __init__(self, inner: httpx.BaseTransport, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._inner = inner
        self._pauses_s = pauses_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for pause_s in self._pauses_s:
            try:
                response = self._inner.handle_request(request)
            except httpx.RemoteProtocolError:
                if not only_reads(request):
                    raise
            else:
                if response.status_code not in BUSY:
                    return response
                response.close()
            time.sleep(pause_s)
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def only_reads(request: httpx.Request) -> bool:
    """Whether asking twice changes nothing: Prefect's filters are POST requests, but read."""
    return request.method == "GET" or request.url.path.endswith("/filter")
