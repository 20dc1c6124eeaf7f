"""The guard over TLS: real handshakes with a certificate of our own making."""

import datetime
import ipaddress
import socket
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pangu.data.ingest.guard import EgressPolicy, Failed, GuardedOpener
from tests.data.ingest.test_guard import head, server


def write_certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself, in one PEM file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(address, critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "own.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def fetch(port: int) -> bytes:
    policy = EgressPolicy(frozenset({("127.0.0.1", port)}), max_bytes=1000, max_seconds=0.8)
    return GuardedOpener(policy).open(f"https://127.0.0.1:{port}/a.png").read()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(write_certificate(tmp_path))
    return context


def answer_over(context: ssl.SSLContext, body: bytes):  # type: ignore[no-untyped-def]
    def answer(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            secure.recv(65_536)
            secure.sendall(body)

    return answer


def test_a_trusted_server_is_read(tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    with server(answer_over(tls, head("Content-Length: 5") + b"image"), reads_head=False) as port:
        assert fetch(port) == b"image"


def test_an_untrusted_certificate_is_refused(tls: ssl.SSLContext) -> None:
    with server(answer_over(tls, b""), reads_head=False) as port, pytest.raises(Failed, match="bad_tls"):
        fetch(port)


def test_a_dripping_handshake_ends_at_the_deadline() -> None:
    def drip(client: socket.socket) -> None:
        client.sendall(b"\x16\x03\x03\x40\x00")  # a handshake record of 16 KiB is announced, and never comes whole
        for _ in range(200):
            client.sendall(b"\x02")
            time.sleep(0.05)

    started = time.monotonic()
    with server(drip) as port, pytest.raises(Failed, match="timeout"):
        fetch(port)
    assert time.monotonic() - started < 3
