"""An origin that does whatever origins do: every behaviour is one URL, and says how its row should end."""

import gzip
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from pangu.data.example.openmoji import render_png, selection
from pangu.data.example.origin import png_header

LIMIT = 60_000
"""Bytes that a row may cost."""


def good(index: int = 0, side: int = 64) -> bytes:
    return render_png(selection(40)[index], side)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def picture(index: int) -> Image.Image:
    return Image.open(io.BytesIO(good(index))).convert("RGB")


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", "Connection: close", *lines, "", "")).encode()


def body(data: bytes, *lines: str) -> bytes:
    return head(f"Content-Length: {len(data)}", *lines) + data


def redirect(target: str) -> bytes:
    return head(f"Location: {target}", "Content-Length: 0", status="302 Found")


def drip(client: socket.socket, prefix: bytes) -> None:
    client.sendall(prefix)
    for _ in range(400):
        client.sendall(b"x")
        time.sleep(0.05)


def endless(client: socket.socket, prefix: bytes) -> None:
    client.sendall(prefix)
    for _ in range(4000):
        client.sendall(bytes(65_536))


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def rotated(index: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(index), "JPEG", exif=exif)


def broken_exif(index: int) -> bytes:
    return encoded(picture(index), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + bytes(40))


def animated(index: int) -> bytes:
    return encoded(picture(index), "GIF", save_all=True, append_images=[picture(index + 1), picture(index + 2)])


def see_through(index: int) -> bytes:
    palette = picture(index).quantize(16)
    return encoded(palette, "PNG", transparency=0)


def polyglot(index: int) -> bytes:
    """A PNG that is also a ZIP and an HTML page: only its pixels come through."""
    return good(index) + b"<html><script>alert(1)</script></html>PK\x05\x06" + bytes(18)


def zlib_bomb() -> bytes:
    """10,000 x 10,000 px in a few kilobytes: within no pixel limit of ours."""
    return encoded(Image.new("1", (10_000, 10_000)), "PNG")


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>fetch('http://127.0.0.1/')</script></svg>"
Act = Callable[[socket.socket, int], None]


def sends(data: Callable[[], bytes]) -> Act:
    return lambda client, port: client.sendall(data())


def moves(target: str) -> Act:
    return lambda client, port: client.sendall(redirect(target.format(port=port)))


def private_name() -> str:
    """A name that resolves to a loopback address here."""
    with suppress(OSError):
        for line in Path("/etc/hosts").read_text().splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if address in ("127.0.0.1", "127.0.1.1", "::1"):
                for name in names:
                    if name != "localhost":
                        return name
    return "localhost"


# Behaviour -> (what the server does, the reason of the row; "" for an image that is kept).
BEHAVIOURS: dict[str, tuple[Act, str]] = {
    "plain": (sends(lambda: body(good(0))), ""),
    "plain-again": (sends(lambda: body(good(1))), ""),
    "wrong-type": (sends(lambda: body(good(2), "Content-Type: text/html")), ""),
    "no-length": (sends(lambda: head() + good(3)), ""),
    "chunked": (sends(lambda: head("Transfer-Encoding: chunked") + chunked(good(4))), ""),
    "cmyk": (sends(lambda: body(encoded(picture(5).convert("CMYK"), "JPEG"))), ""),
    "sixteen-bit": (sends(lambda: body(encoded(Image.fromarray(noise16()), "PNG"))), ""),
    "avif": (sends(lambda: body(encoded(picture(30), "AVIF"))), ""),
    "tiff": (sends(lambda: body(encoded(picture(31), "TIFF", compression="tiff_lzw"))), ""),
    "jpeg-2000": (sends(lambda: body(encoded(picture(32), "JPEG2000"))), ""),
    "animated": (sends(lambda: body(animated(6))), ""),
    "palette-transparency": (sends(lambda: body(see_through(9))), ""),
    "rotated": (sends(lambda: body(rotated(10))), ""),
    "broken-exif": (sends(lambda: body(broken_exif(11))), ""),
    "polyglot": (sends(lambda: body(polyglot(12))), ""),
    "redirect-once": (moves("http://127.0.0.1:{port}/plain-moved"), ""),
    "plain-moved": (sends(lambda: body(good(13))), ""),
    "truncated-jpeg": (sends(lambda: body(encoded(picture(14), "JPEG")[:-400])), "undecodable"),
    "not-found": (sends(lambda: head("Content-Length: 0", status="404 Not Found")), "http_404"),
    "server-error": (sends(lambda: head("Content-Length: 0", status="500 Oops")), "http_500"),
    "too-many-requests": (sends(lambda: head("Content-Length: 0", status="429 Slow down")), "http_429"),
    "opted-out": (sends(lambda: body(good(15), "X-Robots-Tag: noai")), "opted_out"),
    "slow-drip": (lambda client, port: drip(client, head()), "timeout"),
    "slow-header": (lambda client, port: drip(client, b"HTTP/1.1 200 OK\r\nX: "), "timeout"),
    "infinite-body": (lambda client, port: endless(client, head()), "too_many_bytes"),
    "liar-long": (sends(lambda: head("Content-Length: 9999999999") + good(16)), "too_many_bytes"),
    "liar-short": (sends(lambda: head("Content-Length: 9999") + good(17)[:100]), "incomplete"),
    "gzip-bomb": (sends(lambda: body(gzip.compress(bytes(1 << 24)), "Content-Encoding: gzip")), "not_an_image"),
    "pixel-bomb": (sends(lambda: body(png_header(100_000, 100_000))), "too_many_pixels"),
    "zlib-bomb": (sends(lambda: body(zlib_bomb())), "too_many_pixels"),
    "svg-script": (sends(lambda: body(SVG, "Content-Type: image/svg+xml")), "not_an_image"),
    "html-page": (sends(lambda: body(b"<!doctype html><p>gone")), "not_an_image"),
    "empty": (sends(lambda: body(b"")), "empty"),
    "garbage-answer": (sends(lambda: b"\x00\xff not HTTP\r\n\r\n"), "bad_response"),
    "endless-headers": (sends(lambda: head(*(f"X-{i}: y" for i in range(500))) + good(18)), "bad_response"),
    "reset": (lambda client, port: reset(client), "connection_lost"),
    "closes": (sends(lambda: b""), "connection_lost"),
    "redirect-loop": (moves("http://127.0.0.1:{port}/redirect-loop"), "http_302"),
    "redirect-to-file": (moves("file:///etc/hostname"), "refused_redirect"),
    "redirect-to-metadata": (moves("http://169.254.169.254/latest/meta-data"), "refused_redirect"),
    "redirect-to-other-port": (moves("http://127.0.0.1:1/"), "refused_redirect"),
    "redirect-to-decimal": (moves("http://2130706433:1/"), "refused_redirect"),
    "redirect-to-full-width": (moves("http://１２７。0.0.1:1/"), "refused_redirect"),
    "图片/狐 狸.png": (sends(lambda: body(good(30))), ""),
    "图片?名=狐&q=red fox": (sends(lambda: body(good(31))), ""),
    "redirect-in-raw-bytes": (moves("/图片/全 景?名=狐"), ""),
    "图片/全 景?名=狐": (sends(lambda: body(good(32))), ""),
}
# URLs that need no server: (URL, reason).
URLS: dict[str, tuple[str, str]] = {
    "private-name": (f"http://{private_name()}/x.png", "refused_address"),
    "link-local": ("http://[fe80::1]/x.png", "refused_address"),
    "private-in-circles": ("http://①⓪.0.0.1/图片.png", "refused_address"),
    "zone": ("http://[fe80::1%25eth0]/x.png", "bad_url"),
    "international-host": ("http://例子.invalid/图片.png", "unresolved_host"),
    "unknown-host": ("http://no-such-host.invalid/x.png", "unresolved_host"),
    "ftp": ("ftp://example.org/x.png", "refused_scheme"),
    "data": ("data:image/png;base64,AAAA", "refused_scheme"),
    "no-url": ("", "missing_url"),
}
# Captions that are an attack: (caption, what is left of it).
CAPTIONS: dict[str, tuple[str, str]] = {
    "nul": ("a fox\x00 in the\x07 snow", "a fox in the snow"),
    "right-to-left": ("a \u202egnp.exe\u202c fox", "a gnp.exe fox"),
    "huge": ("x" * 1_000_000, ""),
    "markup": ("<script>alert(1)</script> fox", "<script>alert(1)</script> fox"),
}


def noise16() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65_536, (64, 64), np.uint16)


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"


@contextmanager
def hostile_origin() -> Iterator[int]:
    """Serve every behaviour at /NAME; yields the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]

        def answer(client: socket.socket) -> None:
            with client, suppress(OSError):
                client.settimeout(30)
                request = client.recv(65_536).decode("latin-1")
                name = unquote(request.split(" ")[1]).strip("/") if " " in request else ""
                if name.startswith("caption-"):
                    client.sendall(body(good(20 + list(CAPTIONS).index(name.removeprefix("caption-")))))
                elif name in BEHAVIOURS:
                    BEHAVIOURS[name][0](client, port)
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield port
