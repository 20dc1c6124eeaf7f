"""The loss curve of a run as a small PNG, drawn from its history."""

import io
from collections.abc import Sequence

from pangu.train.history import Line

INK, FAINT, GRID = "#1f2328", "#6e7781", "#e4e7eb"
COLOURS = ("#0969da", "#1a7f37", "#bf8700", "#cf222e", "#8250df", "#57606a")
POINTS = 160
"""Most points of one curve; each is the mean of the log lines around it."""

Curve = list[tuple[float, float]]


def curves_of(lines: Sequence[Line]) -> dict[str, Curve]:
    """(step, value) of `loss`, of every `loss/...` and of `held_out_loss`, thinned to `POINTS`; only finite values."""
    found = {name for line in lines for name in line.metrics}
    names = sorted((name for name in found if name.startswith("loss") or name == "held_out_loss"), key=_by_timestep)
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
    from matplotlib.figure import Figure  # not pyplot, which keeps global state

    figure = Figure(figsize=(6.4, 2.8), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        whole = name == "loss"
        colour = INK if whole else COLOURS[number % len(COLOURS)]
        x, y = zip(*curve, strict=True) if curve else ((), ())
        axes.plot(x, y, color=colour, linewidth=2 if whole else 1, zorder=3 if whole else 2, label=name.split("/")[-1])
    axes.set_xlim(0, max(last_step, 1))
    axes.set_xlabel("step", color=FAINT)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT)
    if curves:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK, fontsize=9)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def _by_timestep(name: str) -> tuple[int, str]:
    """`loss` first, then `loss/t0-124` before `loss/t125-249`."""
    first = name.removeprefix("loss/t").split("-")[0]
    return (int(first) if first.isdigit() else -1), name
