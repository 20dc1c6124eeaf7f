"""ICC profiles written byte by byte, and the colours that they mean, so that tests know both sides of a conversion."""

import struct
from collections.abc import Sequence

import numpy as np

D65 = (0.3127, 0.3290)
D50_XYZ = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
Primaries = Sequence[tuple[float, float]]


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] -> light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray, gamma: float | None) -> np.ndarray:
    """Light in [0, 1] -> values of a power law, or of sRGB's curve (gamma None)."""
    if gamma is not None:
        return light ** (1 / gamma)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(primaries: Primaries) -> np.ndarray:
    """(3, 3) from light of these primaries, white D65, to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    x, y = D65
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))


def in_space(srgb_hwc: np.ndarray, primaries: Primaries, gamma: float | None) -> np.ndarray:
    """uint8 sRGB pixels -> the uint8 pixels of the same colours in another RGB space that holds them."""
    matrix = np.linalg.inv(to_xyz(primaries)) @ to_xyz(SRGB)
    light = linear(srgb_hwc / 255) @ matrix.T
    return (encoded(light.clip(0, 1), gamma) * 255).round().astype(np.uint8)


def adapted_to_d50(primaries: Primaries) -> np.ndarray:
    """(3, 3) from light of these primaries to the XYZ in which profiles meet, by Bradford's adaptation."""
    white = BRADFORD @ to_xyz(primaries).sum(axis=1)
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50_XYZ) / white) @ BRADFORD @ to_xyz(primaries)


def srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    """Lab (white D50) -> sRGB, 0 to 255."""
    level = (lab[..., 0] + 16) / 116
    roots = np.stack([level + lab[..., 1] / 500, level, level - lab[..., 2] / 200], -1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * D50_XYZ
    return encoded((xyz @ np.linalg.inv(adapted_to_d50(SRGB)).T).clip(0, 1), None) * 255


def rgb_profile(primaries: Primaries, gamma: float | None) -> bytes:
    """A version 2 matrix profile."""
    adapted = adapted_to_d50(primaries)
    tags = {f"{name}XYZ": _xyz(adapted[:, place]) for place, name in enumerate("rgb")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {f"{name}TRC": _curve(gamma) for name in "rgb"})


def gray_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {"kTRC": _curve(gamma)})


def cmyk_profile(corners_lab: np.ndarray) -> bytes:
    """A press whose full and empty inks look as `corners_lab` (2, 2, 2, 2, 3) says: Lab by C, M, Y, K."""
    ramp = bytes(range(256))
    levels = np.stack([corners_lab[..., 0] * 2.55, corners_lab[..., 1] + 128, corners_lab[..., 2] + 128], -1)
    matrix = struct.pack(">9i", *(value << 16 for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = levels.round().clip(0, 255).astype(np.uint8).tobytes()
    lut = b"mft1" + bytes(4) + struct.pack(">4B", 4, 3, 2, 0) + matrix + ramp * 4 + table + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {"A2B0": lut})


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    values = (linear(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(values)) + values.tobytes()


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[str, bytes]) -> bytes:
    text = b"made by a test\0"
    tags = {
        "desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        "wtpt": _xyz(D50_XYZ),
        **tags,
        "cprt": b"text" + bytes(4) + b"none\0",
    }
    at, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        index += name.encode() + struct.pack(">II", at + len(body), len(data))
        body += data
    header = struct.pack(">I4xI4s4s4s", at + len(body), 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(float(value) * 65536) for value in D50_XYZ))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body
