"""The guard refuses every private address however it is spelled, and bounds a download in bytes and in time."""

import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.ingest.guard import EgressPolicy, GuardedOpener, is_public
from pangu.data.ingest.urls import Failed
from tests import subtests

OUTSIDE = EgressPolicy(frozenset(), max_bytes=1000, max_seconds=0.6)


@contextmanager
def server(answer: Callable[[socket.socket], None], reads_head: bool = True) -> Iterator[int]:
    """A raw TCP server on loopback that reads a request's head and then does what `answer` does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        if reads_head:
                            client.recv(65_536)
                        answer(client)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def fetch(url: str, policy: EgressPolicy | None = None) -> bytes:
    if policy is None:
        port = urllib.parse.urlsplit(url).port or 80
        policy = EgressPolicy(frozenset({("127.0.0.1", port)}), max_bytes=1000, max_seconds=0.6)
    return GuardedOpener(policy).open(url).read()


def reason(url: str, policy: EgressPolicy | None = None) -> str:
    with pytest.raises(Failed) as error:
        fetch(url, policy)
    return error.value.reason


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", "Connection: close", *lines, "", "")).encode()


def test_a_plain_answer_arrives() -> None:
    with server(lambda client: client.sendall(head("Content-Length: 5") + b"image")) as port:
        assert fetch(f"http://127.0.0.1:{port}/") == b"image"


@given(st.text(max_size=60))
def test_any_text_is_either_acceptable_or_refused_with_a_reason(url: str) -> None:
    for candidate in (url, f"http://{url}", f"http://example.org/{url}"):
        with suppress(Failed):
            OUTSIDE.check_url(candidate)


PRIVATE = [
    "10.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "0.0.0.0/8",
]


@given(st.sampled_from(PRIVATE).flatmap(lambda network: st.ip_addresses(v=4, network=network)))
def test_no_private_address_is_public_in_any_spelling(address: IPv4Address) -> None:
    number = int(address)
    spellings = [
        str(address),
        f"::ffff:{address}",
        str(IPv6Address((0x0064FF9B << 96) | number)),
        str(IPv6Address((0x2002 << 112) | (number << 80))),
    ]
    assert not any(is_public(spelling) for spelling in spellings)


@subtests.parametrize("address", ["::1", "fe80::1", "fe80::1%eth0", "fc00::1", "224.0.0.1", "255.255.255.255", "::"])
def test_other_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are_public() -> None:
    assert is_public("93.184.216.34") and is_public("2606:2800:220:1::1") and is_public("::ffff:93.184.216.34")


@subtests.parametrize(
    ("url", "expected"),
    [
        ("", "missing_url"),
        ("file:///etc/passwd", "refused_scheme"),
        ("ftp://example.org/a.png", "refused_scheme"),
        ("data:image/png;base64,AAAA", "refused_scheme"),
        ("http:///a.png", "bad_url"),
        ("http://example.org:99999/", "bad_url"),
        ("http://example.org/\x00", "bad_url"),
        ("http://user@example.org/", "bad_url"),
        ("http://169.254.169.254/latest/meta-data", "refused_address"),
        ("http://localhost/", "refused_address"),
        ("http://LOCALHOST./", "refused_address"),
        ("http://[::1]/", "refused_address"),
        ("http://2130706433/", "refused_address"),
        ("http://0x7f.1/", "refused_address"),
        ("http://0177.0.0.1/", "refused_address"),
    ],
)
def test_what_must_not_be_opened_is_refused(url: str, expected: str) -> None:
    assert reason(url, OUTSIDE) == expected


def test_a_private_host_is_reached_only_at_the_ports_the_table_names() -> None:
    with server(lambda client: client.sendall(head("Content-Length: 2") + b"ok")) as port:
        assert fetch(f"http://127.0.0.1:{port}/") == b"ok"
        elsewhere = EgressPolicy(frozenset({("127.0.0.1", port + 1)}), 1000, 0.6)
        assert reason(f"http://127.0.0.1:{port}/", elsewhere) == "refused_address"


@subtests.parametrize(
    "target", ["file:///etc/hostname", "http://169.254.169.254/", "gopher://x/", "http://127.0.0.1:1/"]
)
def test_a_redirect_meets_the_same_checks(target: str) -> None:
    moved = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    with server(lambda client: client.sendall(moved)) as port:
        assert reason(f"http://127.0.0.1:{port}/") == "refused_redirect"


def test_an_endless_redirect_ends() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with server(lambda client: client.sendall(moved)) as port:
        assert reason(f"http://127.0.0.1:{port}/") == "http_302"


def drip(client: socket.socket, prefix: bytes) -> None:
    client.sendall(prefix)
    for _ in range(200):
        client.sendall(b"x")
        time.sleep(0.05)


@subtests.parametrize("prefix", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", head(), head("Content-Length: 900")])
def test_a_slow_drip_ends_at_the_deadline_wherever_it_drips(prefix: bytes) -> None:
    with server(lambda client: drip(client, prefix)) as port:
        started = time.monotonic()
        assert reason(f"http://127.0.0.1:{port}/") == "timeout"
        assert time.monotonic() - started < 3


@subtests.parametrize(
    "prefix", [head(), head("Content-Length: 100000"), head("Transfer-Encoding: chunked") + b"fffff\r\n"]
)
def test_a_body_is_read_no_further_than_the_limit(prefix: bytes) -> None:
    with server(lambda client: client.sendall(prefix + b"x" * 1_048_575)) as port:
        assert reason(f"http://127.0.0.1:{port}/") == "too_many_bytes"


@subtests.parametrize(
    ("answer", "expected"),
    [
        (head("Content-Length: 50") + b"short", "incomplete"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http_404"),
        (b"no HTTP at all\r\n\r\n", "bad_response"),
        (b"", "connection_lost"),
    ],
)
def test_every_failure_has_its_reason(answer: bytes, expected: str) -> None:
    with server(lambda client: client.sendall(answer)) as port:
        assert reason(f"http://127.0.0.1:{port}/") == expected


def test_an_unknown_host_and_a_closed_port_have_their_reasons() -> None:
    assert reason("http://no-such-host.invalid/") == "unresolved_host"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert reason(f"http://127.0.0.1:{port}/") == "connection_lost"
