"""The image origin of the demo and the tests: a loopback server with OpenMoji drawings and a dozen broken URLs.

Owns the server and the URL table that lists it.
"""

import functools
import io
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.captions import KEYWORDS
from pangu.data.example import artists, chalk, layers, openmoji
from pangu.data.images import PNG_SIGNATURE, png_chunk
from pangu.data.ingest.source import COLUMNS, LISTED
from pangu.errors import UserError
from pangu.storage import write_atomically

LOOPBACK = "127.0.0.1"
SMALL_SIDE, LARGE_SIDE = 48, 128
"""Sides in px; the demo's texture threshold of 64 px lies between."""
BROKEN = (
    "not-found", "reset", "truncated", "page", "empty", "not-an-image", "hangs", "absurd-size", "duplicate",
    "no-caption", "redirect-to-file", "redirect-to-neighbour",
)  # fmt: skip


class Origin:
    """Serves drawings and one URL of each kind in `BROKEN` on loopback, until `close`.

    count: so many of the catalogue; None: everything that OpenMoji has, skin tones too.
    small_share: share of the drawings, spread evenly, that are served too small for the demo's texture threshold.
    render: what makes the PNG of a drawing at a side in px; another one serves them in another style.
    host: where it listens instead, in a network that has no other way to it.
    packages: a folder of npm's; serves the drawings of the same emoji by every artist in it, too, and lists keywords.
    in_chalk: lists the drawings in the style "chalk". in_layers: lists them as outlines and flat, too.
    """

    def __init__(
        self,
        count: int | None = openmoji.IMAGES,
        port: int = 0,
        small_share: float = 0.5,
        render: Callable[[openmoji.Emoji, int], bytes] = chalk.render_styled,
        host: str = LOOPBACK,
        packages: Path | None = None,
        in_chalk: bool = False,
        in_layers: bool = False,
    ) -> None:
        emoji = openmoji.every_drawing() if count is None else openmoji.selection(count)
        drawings = emoji if packages is None else artists.with_artists(emoji, packages)
        self._drawings = (
            chalk.in_chalk(drawings) if in_chalk else layers.with_layers(drawings) if in_layers else drawings
        )
        self._columns = COLUMNS if packages is None else (*COLUMNS, *KEYWORDS.values())
        self._small_share = small_share
        self._render = functools.lru_cache(maxsize=None)(render)
        self.closing = threading.Event()
        self._host = host
        self._servers = [_listen(host, port, self._answer), _listen(host, 0, self._answer)]
        self.port, self.neighbour_port = (server.server_port for server in self._servers)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    def start(self) -> None:
        """Serve from background threads."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def rows(self) -> list[dict[str, Any]]:
        """The listed rows: the drawings in Unicode order, artist by artist, with the broken URLs spread among them."""
        rows = [self._row(index, one) for index, one in enumerate(self._drawings)]
        for number, kind in enumerate(BROKEN):
            en, zh = (None, None) if kind == "no-caption" else (f"a broken link, {kind}", f"坏链接 {kind}")
            row: dict[str, Any] = {"url": f"{self.url}/broken/{kind}", "caption_en": en, "caption_zh": zh}
            rows.insert((number + 1) * len(rows) // (len(BROKEN) + 1), row)
        return [{"license": openmoji.licence()} | row for row in rows]

    def _row(self, index: int, one: openmoji.Emoji) -> dict[str, Any]:
        url = f"{self.url}/{index}-{one.stem}.png"
        listed = vars(one) | {"url": url, "license": artists.licence_of(one.style)}
        return {name: listed[name] for name in self._columns}

    def write_table(self, path: Path) -> None:
        """The URL table as Parquet, atomically."""
        buffer = io.BytesIO()
        schema = pa.schema([LISTED.field(name) for name in self._columns])
        pq.write_table(pa.Table.from_pylist(self.rows(), schema=schema), buffer)
        write_atomically(path, buffer.getvalue())

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        name = urlsplit(request.path).path.rsplit("/", 1)[-1]
        if request.path.startswith("/broken/"):
            self._answer_broken(request, name)
            return
        index = name.partition("-")[0]
        if index.isdigit() and int(index) < len(self._drawings):
            _send(request, self._drawing(int(index)))
        else:
            request.send_error(404)

    def _drawing(self, index: int) -> bytes:
        small = round(index * self._small_share % 1, 9) < self._small_share
        return self._render(self._drawings[index], SMALL_SIDE if small else LARGE_SIDE)

    def _answer_broken(self, request: BaseHTTPRequestHandler, kind: str) -> None:
        png = self._render(self._drawings[0], 100)  # a size that no listed drawing has, so it duplicates nothing
        match kind:
            case "reset":
                # Closing with a zero linger time sends RST instead of FIN.
                request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                request.connection.close()
            case "truncated":
                _send(request, png[: len(png) // 2])
            case "page":
                _send(request, b"<!doctype html><title>Gone</title><p>This image has moved.", "text/html")
            case "empty":
                _send(request, b"")
            case "not-an-image":
                _send(request, b"\x7fELF" + bytes(range(256)) * 8)
            case "hangs":
                self.closing.wait(600)
            case "absurd-size":
                _send(request, png_header(50_000, 50_000))
            case "duplicate":
                _send(request, self._drawing(1 % len(self._drawings)))
            case "no-caption" | "neighbour":
                _send(request, png)
            case "redirect-to-file":
                _redirect(request, "file:///etc/hostname")
            case "redirect-to-neighbour":
                _redirect(request, f"http://{self._host}:{self.neighbour_port}/broken/neighbour")
            case _:
                request.send_error(404)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a valid RGB PNG that claims `width` x `height` pixels and holds next to nothing."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(png_chunk(kind, data) for kind, data in parts)


def port_to_reuse(table: Path) -> int:
    """The port in the URLs of an earlier table, so that a restarted origin serves the same list; 0 if there is none."""
    try:
        first = pq.read_table(table, columns=["url"])["url"][0].as_py()
        return urlsplit(first).port or 0
    except (OSError, pa.ArrowException, IndexError, KeyError, ValueError):
        return 0


def open_origin(
    count: int | None, port: int, table: Path, small_share: float = 0.5, packages: Path | None = None,
    in_chalk: bool = False, in_layers: bool = False,
) -> Origin:  # fmt: skip
    """An origin on `port`; port 0 means the port of the earlier `table` if it is free, or else any.

    Raises:
        UserError: the port that was asked for is taken.
    """
    ways = {"small_share": small_share, "packages": packages, "in_chalk": in_chalk, "in_layers": in_layers}
    open_at = functools.partial(Origin, count, **ways)  # type: ignore[arg-type]
    if port:
        try:
            return open_at(port=port)
        except OSError as error:
            raise UserError(
                f"Port {port} of 127.0.0.1 cannot be used ({error.strerror}); choose another --port."
            ) from error
    try:
        return open_at(port=port_to_reuse(table))
    except OSError:
        return open_at()


def _listen(host: str, port: int, answer: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: the ingest counts what failed."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that leave early are part of the game."""

    return Server((host, port), Handler)


def _send(request: BaseHTTPRequestHandler, body: bytes, kind: str = "image/png") -> None:
    request.send_response(200)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _redirect(request: BaseHTTPRequestHandler, target: str) -> None:
    request.send_response(302)
    request.send_header("Location", target)
    request.send_header("Content-Length", "0")
    request.end_headers()
