"""OpenMoji's drawings in two styles that their own layers make: the outlines alone, and the colours without outlines."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace

from pangu.data.example.openmoji import Emoji, svg

OUTLINE, FLAT = "outline", "flat"
STYLES = (OUTLINE, FLAT)
DRAWN = ("path", "circle", "ellipse", "rect", "line", "polyline", "polygon", "use")
"""Elements of SVG that leave something on the page."""


def in_style(drawings: Sequence[Emoji], style: str) -> list[Emoji]:
    """The same drawings as outlines, or flat."""
    return [replace(one, style=style, stem=f"{one.stem}-{style}", drawn=_layer(svg(one), style)) for one in drawings]


def with_layers(drawings: Sequence[Emoji]) -> list[Emoji]:
    """These drawings as they are, then all of them in each style."""
    return [*drawings, *(one for style in STYLES for one in in_style(drawings, style))]


def _layer(drawing: str, style: str) -> str:
    root = ET.fromstring(drawing)
    _keep(root, lines=style == OUTLINE, within_lines=False)
    return ET.tostring(root, encoding="unicode")


def _keep(element: ET.Element, lines: bool, within_lines: bool) -> None:
    """Leave what is in a layer of lines, or all that is not."""
    for child in list(element):
        inside = within_lines or child.get("id", "").startswith("line")
        if child.tag.rpartition("}")[2] in DRAWN and inside != lines:
            element.remove(child)
        else:
            _keep(child, lines, inside)
