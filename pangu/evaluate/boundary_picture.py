"""The curve behind a recommended T_struct, as a picture."""

import io
from typing import Any

import numpy as np

from pangu.evaluate.boundary import Floats
from pangu.evaluate.boundary_outcome import BoundaryOutcome

INK, FAINT, GRID = "#1f2328", "#6e7781", "#e4e7eb"
STRUCTURE, TEXTURE = "#0b6bcb", "#c2410c"


def draw(outcome: BoundaryOutcome, visible_t: Floats) -> bytes:
    """PNG: above, what is still open and what is still visible at each timestep, with the marks; below, loss and log-SNR."""
    from matplotlib.figure import Figure  # not pyplot, which keeps global state

    figure = Figure(figsize=(10, 7.2), dpi=110, layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    heading = f"T_struct = {outcome.recommendation.boundary}"
    figure.suptitle(heading, x=0.057, ha="left", color=INK, fontsize=16, fontweight="bold")
    _shares(upper, outcome, visible_t)
    _losses(lower, outcome)
    for axes in (upper, lower):
        axes.set_xlim(0, len(visible_t))
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=FAINT)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def _shares(axes: Any, outcome: BoundaryOutcome, visible_t: Floats) -> None:
    found = outcome.recommendation
    t = np.array([point.timestep for point in outcome.curve])
    layout = np.array([point.unknown_layout for point in outcome.curve])
    axes.plot(np.arange(len(visible_t)), visible_t, color=TEXTURE, linewidth=2.2, label="lost detail still visible")
    axes.plot(t, layout.clip(0, 1.2), color=STRUCTURE, linewidth=2.2, label="layout still open (probe)")
    axes.axvspan(0, found.detail_mark, color=TEXTURE, alpha=0.08, linewidth=0)
    axes.plot(found.detail_mark, _at(visible_t, found.detail_mark), "o", color=TEXTURE, markersize=7)
    axes.plot(found.layout_mark, np.interp(found.layout_mark, t, layout), "o", color=STRUCTURE, markersize=7)
    axes.plot(found.elbow, np.interp(found.elbow, t, layout), "o", color=STRUCTURE, fillstyle="none", label="elbow")
    axes.axvline(found.boundary, color=INK, linewidth=1.6, linestyle=(0, (5, 3)))
    top = max(1.0, float(layout.clip(0, 1.2).max()))
    axes.set_ylim(-0.02, top * 1.14)
    axes.set_ylabel("share", color=INK)
    axes.set_title(f"{_reason(outcome)}\n{_data(outcome)}", loc="left", color=FAINT, fontsize=10)
    axes.legend(loc="upper center", ncols=3, framealpha=1, edgecolor="white", labelcolor=INK)


def _reason(outcome: BoundaryOutcome) -> str:
    found = outcome.recommendation
    if found.bound_by == "layout":
        return f"half of the layout is decided at {found.layout_mark}; lost detail drowns in noise from {found.detail_mark} on"
    return (
        f"lost detail drowns in noise from {found.detail_mark} on; half of the layout is decided at {found.layout_mark}"
    )


def _data(outcome: BoundaryOutcome) -> str:
    rows = "held-out" if outcome.split == "held_out" else "training"
    return (
        f"{outcome.dataset}, version {outcome.version}: {outcome.images} {rows} originals; "
        f"small images x{outcome.upscale_factor:g} by {outcome.upscaler}"
    )


def _losses(axes: Any, outcome: BoundaryOutcome) -> None:
    t = [point.timestep for point in outcome.curve]
    axes.plot(t, [point.loss for point in outcome.curve], color=INK, linewidth=1.8)
    axes.set_ylabel("loss of the probe", color=INK)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("timestep t   (0: clean, texture's side; right: pure noise, structure's side)", color=INK)
    axes.axvline(outcome.recommendation.boundary, color=INK, linewidth=1.6, linestyle=(0, (5, 3)))
    other = axes.twinx()
    other.plot(t, [point.log_snr for point in outcome.curve], color=FAINT, linewidth=1.4, linestyle=":")
    other.set_ylabel("log-SNR (dotted)", color=FAINT)
    other.tick_params(colors=FAINT)
    other.spines[["top"]].set_visible(False)


def _at(values: Floats, index: int) -> float:
    return float(values[min(index, len(values) - 1)])
