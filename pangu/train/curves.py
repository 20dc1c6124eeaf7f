"""The loss curve of a run as a small PNG, drawn with Pillow from its history."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from pangu.train.history import Line

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 150, 30, 30
INK, FAINT, PAPER, FRAME = "#1f2328", "#6e7781", "#ffffff", "#d0d7de"
COLOURS = ("#0969da", "#1a7f37", "#bf8700", "#cf222e", "#8250df", "#57606a")
POINTS = 160
"""Most points of one curve; each is the mean of the log lines around it."""

Curve = list[tuple[float, float]]


def curves_of(lines: Sequence[Line]) -> dict[str, Curve]:
    """(step, value) of `loss` and of every `loss/...`, thinned to `POINTS`; only finite values."""
    names = sorted({name for line in lines for name in line.metrics if name.startswith("loss")}, key=_by_timestep)
    return {
        name: thinned([(line.step, line.metrics[name]) for line in lines if name in line.metrics]) for name in names
    }


def thinned(points: Sequence[tuple[int, float]], most: int = POINTS) -> Curve:
    """At most `most` points: means of equally long runs of finite ones."""
    finite = [(float(x), y) for x, y in points if y == y and abs(y) != float("inf")]
    run = max(1, -(-len(finite) // most))
    parts = [finite[start : start + run] for start in range(0, len(finite), run)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def draw_curves(curves: dict[str, Curve], title: str, last_step: int) -> bytes:
    """PNG of the curves over steps 0 to `last_step`; `loss` is thick and black, those of timestep buckets are coloured."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    values = [y for curve in curves.values() for _, y in curve]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = min(low, 0.9 * high), high or 1.0
    draw.text((LEFT, 8), title, INK, font)
    draw.rectangle((LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), outline=FRAME)
    for part in range(5):
        y = HEIGHT - BOTTOM - part / 4 * (HEIGHT - TOP - BOTTOM)
        draw.line((LEFT, y, WIDTH - RIGHT, y), FRAME)
        draw.text((LEFT - 6, y), f"{low + part / 4 * (high - low):.3g}", FAINT, font, anchor="rm")
        x = LEFT + part / 4 * (WIDTH - LEFT - RIGHT)
        draw.text((x, HEIGHT - BOTTOM + 6), f"{round(part / 4 * last_step)}", FAINT, font, anchor="ma")

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across, up = point[0] / max(last_step, 1), (point[1] - low) / ((high - low) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    # The whole loss comes last, above the others.
    for number, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: item[0] == "loss")):
        colour, width = (INK, 2) if name == "loss" else (COLOURS[number % len(COLOURS)], 1)
        if len(curve) > 1:
            draw.line([place(point) for point in curve], colour, width, joint="curve")
        y = TOP + 16 * number
        draw.line((WIDTH - RIGHT + 10, y + 7, WIDTH - RIGHT + 26, y + 7), colour, width + 1)
        draw.text((WIDTH - RIGHT + 32, y), name.removeprefix("loss/"), INK, font)
    sink = io.BytesIO()
    sheet.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _by_timestep(name: str) -> tuple[int, str]:
    """`loss` first, then `loss/t0-124` before `loss/t125-249`."""
    first = name.removeprefix("loss/t").split("-")[0]
    return (int(first) if first.isdigit() else -1), name
