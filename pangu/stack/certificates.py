"""Whom HTTP clients of the stack trust, read once a process: httpx reads it anew for each client, 20 ms of a processor."""

import ssl
from functools import cache

import httpx


@cache
def trusted() -> ssl.SSLContext:
    """The certificates that httpx trusts by itself, those of SSL_CERT_FILE and SSL_CERT_DIR among them."""
    return httpx.create_ssl_context()
