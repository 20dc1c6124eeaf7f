"""What makes a hostile URL list harmless: an opener for urllib that reaches public addresses only and reads so much.

Addresses are checked where the socket connects, so redirects, odd spellings of addresses and names that resolve to
private ones all meet the same check.
"""

import heapq
import http.client
import ipaddress
import itertools
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from pangu.data.ingest.urls import Failed, origin_of, redirect_target, requested_url


@dataclass(frozen=True)
class EgressPolicy:
    """Where downloads may go and what one of them may cost."""

    private_origins: frozenset[tuple[str, int]]
    max_bytes: int
    max_seconds: float

    def check_url(self, url: str) -> str:
        """The URL that is asked for; refuses what can be refused without resolving a name.

        Raises:
            Failed: missing_url, bad_url, refused_scheme or refused_address.
        """
        asked = requested_url(url)
        host, port = origin_of(asked)
        if host == "localhost" or (is_ip(host) and not is_public(host)):
            self.check_address(host, port, host)
        return asked

    def check_address(self, host: str, port: int, address: str) -> None:
        """Refuse to connect `host` where it resolved to an address that is not public, unless the table may name it."""
        if (host, port) not in self.private_origins and not (is_ip(address) and is_public(address)):
            raise Failed("refused_address", f"{host}:{port} is {address}")


def is_ip(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return True
    return False


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is reachable by everyone; an IPv4 address carried inside an IPv6 one counts as itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo[1] if ip.teredo else None
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        for inner in (ip.ipv4_mapped, ip.sixtofour, teredo, nat64):
            if inner is not None:
                return inner.is_global and not inner.is_multicast
    return ip.is_global and not ip.is_multicast


class Deadlines:
    """Shuts sockets down at their deadline, whatever the other side does; one thread for all of them."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, weakref.ref[socket.socket]]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True, name="download-deadlines").start()

    def watch(self, sock: socket.socket, deadline: float) -> None:
        with self._changed:
            heapq.heappush(self._due, (deadline, next(self._count), weakref.ref(sock)))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    continue
                sock = heapq.heappop(self._due)[2]()
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


class _Response(http.client.HTTPResponse):
    """A response whose whole body is bounded in bytes and in time."""

    def __init__(self, sock: socket.socket, *args: Any, policy: EgressPolicy, deadline: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._policy, self._deadline = policy, deadline

    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        try:
            return self._read_all()
        except Exception as error:
            fail(error, self._deadline)

    def _read_all(self) -> bytes:
        too_many = Failed("too_many_bytes", f"more than {self._policy.max_bytes}")
        if (self.length or 0) > self._policy.max_bytes:
            raise too_many
        body = bytearray()
        # read1 returns what one receive brought; read(n) would wait for all n bytes of a slow drip.
        while chunk := self.read1(65_536):
            body += chunk
            if len(body) > self._policy.max_bytes:
                raise too_many
        if time.monotonic() >= self._deadline:
            raise TimeoutError
        if self.length:
            raise http.client.IncompleteRead(bytes(body), self.length)
        return bytes(body)


class _Connection(http.client.HTTPConnection):
    """Connects to checked addresses only, and to the very address that was checked."""

    def __init__(self, *args: Any, policy: EgressPolicy, deadlines: Deadlines, deadline: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._policy, self._deadlines, self._deadline = policy, deadlines, deadline
        self._create_connection = self._connect_checked
        self.response_class = partial(_Response, policy=policy, deadline=deadline)  # type: ignore[assignment]

    def _connect_checked(self, address: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:
        host, port = address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, target in found:
            self._policy.check_address(host.lower().rstrip("."), port, str(target[0]))
        last: OSError = OSError("no address")
        for family, kind, protocol, _, target in found:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(max(0.01, min(self._policy.max_seconds, self._deadline - time.monotonic())))
            try:
                sock.connect(target)
            except OSError as error:
                sock.close()
                last = error
                continue
            self._deadlines.watch(sock, self._deadline)
            return sock
        raise last


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._deadlines.watch(self.sock, self._deadline)  # wrapping made a new socket object
        self.sock.do_handshake()


class _Http(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, opener: "GuardedOpener") -> None:
        urllib.request.HTTPSHandler.__init__(self)
        self._opener = opener

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_Connection, **self._opener.limits()), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_SecureConnection, **self._opener.limits()), request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy

    def http_error_302(self, request: Any, file: Any, code: int, message: str, headers: Any) -> Any:
        location = headers.get("location")
        if location is None:
            return None  # leads nowhere, so it counts as the error that it is
        try:
            target = self._policy.check_url(redirect_target(request.full_url, location))
        except Failed as error:
            raise Failed("refused_redirect", str(error)) from error
        headers.replace_header("location", target)
        return super().http_error_302(request, file, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]


class GuardedOpener(urllib.request.OpenerDirector):
    """Speaks http and https under a policy, ignores proxies of the environment, and fails with `Failed` only."""

    def __init__(self, policy: EgressPolicy) -> None:
        super().__init__()
        self._policy, self._deadlines, self._thread = policy, Deadlines(), threading.local()
        handlers = (_Http(self), _Redirects(policy), urllib.request.HTTPErrorProcessor())
        for handler in (*handlers, urllib.request.HTTPDefaultErrorHandler(), urllib.request.UnknownHandler()):
            self.add_handler(handler)

    def limits(self) -> dict[str, Any]:
        return {"policy": self._policy, "deadlines": self._deadlines, "deadline": self._thread.deadline}

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> Any:
        if getattr(self._thread, "deadline", None) is not None:  # a redirect: its deadline is that of the first request
            return super().open(fullurl, data, self._policy.max_seconds)
        self._thread.deadline = deadline = time.monotonic() + self._policy.max_seconds
        try:
            if isinstance(fullurl, str):
                fullurl = self._policy.check_url(fullurl)
            else:
                fullurl.full_url = self._policy.check_url(fullurl.full_url)
            return super().open(fullurl, data, self._policy.max_seconds)
        except Exception as error:
            fail(error, deadline)
        finally:
            self._thread.deadline = None


def fail(error: Exception, deadline: float) -> NoReturn:
    """Turn any error of a download into `Failed`; past the deadline, what broke is our own shutting of the socket."""
    if isinstance(error, Failed):
        raise error
    if isinstance(error, urllib.error.HTTPError):
        error.close()
    elif time.monotonic() >= deadline:
        raise Failed("timeout") from error
    raise Failed(reason_of(error), " ".join(str(error).split())[:200]) from error


REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "timeout"),
    (socket.gaierror, "unresolved_host"),
    (ssl.SSLError, "bad_tls"),
    (http.client.IncompleteRead, "incomplete"),
    (ConnectionError, "connection_lost"),
    (http.client.HTTPException, "bad_response"),
    (ValueError, "bad_url"),
    (MemoryError, "out_of_memory"),
)


def reason_of(error: BaseException) -> str:
    """The word under which a download's error is counted."""
    if isinstance(error, urllib.error.HTTPError):
        return f"http_{error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return reason_of(error.reason)
    return next((reason for kind, reason in REASONS if isinstance(error, kind)), "download_error")
