"""The connections of a server that people reach directly: how many there are, how long one may be silent, and who makes way.

uvicorn's own bound (`limit_concurrency`) counts silent connections too and answers in plain text, and a request may take any
time to arrive. Here the connection that is waited for longest makes way for a new one, so silence keeps nobody out.
"""

import asyncio
import math
import resource
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pangu.serve.api.middleware import OVER_LIMIT
from pangu.serve.error_answers import ApiError
from pangu.serve.settings import ServeSettings

MAX_HEAD_BYTES = 64 * 1024
SEND_BYTES = 256 * 1024
"""That the kernel keeps for a reader. Left to itself it takes megabytes, and a slow reader looks like one that stopped."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be, and how many seconds each may keep the server waiting.

    most: connections at once. head_s: from the first byte of a request, or from the opening of the connection, to the end of
    the head. idle_s: from an answer to the next request. reader_s: for which a client may read fewer than `least_bytes_per_s`.
    check_every_s: how exactly these times are kept.
    """

    most: int = 512
    head_s: float = 15.0
    idle_s: float = 75.0
    reader_s: float = 60.0
    least_bytes_per_s: int = 1024
    check_every_s: float = 5.0

    @property
    def hard(self) -> int:
        """Connections above this number are closed unread: files would run out."""
        return self.most + max(16, self.most // 8)


def limits_of(settings: ServeSettings) -> ConnectionLimits:
    """Room for all that may be drawn and refused at once, within half of the files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(ConnectionLimits.most, 8 * settings.max_in_flight + 64)
    return ConnectionLimits(most=wanted if files == resource.RLIM_INFINITY else max(32, min(wanted, files // 2)))


def server_of(api: Any, settings: ServeSettings, port: int, limits: ConnectionLimits | None = None) -> uvicorn.Server:
    """A server that answers with `api` on the port; 0 chooses one."""
    limits = limits or limits_of(settings)
    config = uvicorn.Config(
        api,
        host=settings.host,
        port=port,
        log_level="warning",
        http=protocol_within(limits),
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=math.ceil(limits.idle_s),
        timeout_graceful_shutdown=int(settings.drain_s),
    )
    return uvicorn.Server(config)


def protocol_within(limits: ConnectionLimits) -> type[H11Protocol]:
    """The protocol that uvicorn makes for each connection."""

    class WithLimits(LimitedProtocol):
        pass

    WithLimits.limits = limits
    return WithLimits


class LimitedProtocol(H11Protocol):
    """One connection. It waits for its client (`waiting_since`), or the client waits for it (None)."""

    limits = ConnectionLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.waiting_since: float | None = self.loop.time()
        self._in_head = False
        self._answered = False
        self._unread_bytes: int | None = None
        self._read_since = 0.0
        self._next_check = self.loop.call_later(self.limits.check_every_s, self._check)
        if len(self.connections) > self.limits.most and not self._evict_longest_waiting():
            if len(self.connections) > self.limits.hard:
                transport.abort()
            self.app_state = {**self.app_state, OVER_LIMIT: True}

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        self._answered = True
        super().on_response_complete()
        self._note()

    def resume_writing(self) -> None:
        self._unread_bytes = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused in the form of every other refusal."""
        self._refuse(ApiError(400, msg, code="invalid_http"))

    @property
    def uploading(self) -> bool:
        """Whether the head of a request is here and its body is not."""
        return self._is_in_cycle and self.conn.their_state is h11.SEND_BODY

    @property
    def _is_in_cycle(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _note(self) -> None:
        """Whose turn it is. A head that trickles in, or a body, does not begin the waiting anew."""
        if self._is_in_cycle and not self.uploading:
            self.waiting_since = None
            return
        in_head = not self._is_in_cycle and bool(self.conn.trailing_data[0])
        if self.waiting_since is None or in_head != self._in_head:
            self.waiting_since = self.loop.time()
        self._in_head = in_head

    def _evict_longest_waiting(self) -> bool:
        """End the connection that is waited for longest: rather one without a request than one that sends a body."""
        waiting = [each for each in self.connections if isinstance(each, LimitedProtocol) and each is not self]
        waiting = [each for each in waiting if each.waiting_since is not None]
        if not waiting:
            return False
        longest = min(waiting, key=lambda each: (each._unsent, each.uploading, each.waiting_since))
        self.connections.discard(longest)
        longest.transport.abort()
        return True

    @property
    def _unsent(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    def _check(self) -> None:
        self._next_check = self.loop.call_later(self.limits.check_every_s, self._check)
        if self.transport.is_closing() or self.flow.write_paused:
            self._check_reader()
        elif self.waiting_since is not None and not self.uploading:
            idle = self._answered and not self._in_head
            if self.loop.time() - self.waiting_since > (self.limits.idle_s if idle else self.limits.head_s):
                self._end_waiting()

    def _check_reader(self) -> None:
        """Abort a connection whose client does not read what it asked for."""
        unread, now = self.transport.get_write_buffer_size(), self.loop.time()
        if self._unread_bytes is None:
            self._unread_bytes, self._read_since = unread, now
        elif now - self._read_since >= self.limits.reader_s:
            least = self.limits.least_bytes_per_s * (now - self._read_since)
            if unread > max(0.0, self._unread_bytes - least):
                self.transport.abort()
            self._unread_bytes, self._read_since = unread, now

    def _end_waiting(self) -> None:
        if self._in_head:
            message = f"The head of the request did not arrive within {self.limits.head_s:g} s."
            self._refuse(ApiError(408, message, code="request_timeout"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, which never heard of the request, and close."""
        body = error.body.model_dump_json().encode()
        headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{headers}\r\n"
        if not (self._is_in_cycle and self.cycle.response_started):
            self.transport.write(head.encode() + body)
        self.transport.close()
