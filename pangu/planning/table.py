"""A plan and a calibration as text for people."""

import statistics
from collections.abc import Mapping, Sequence

from pangu.config import Role
from pangu.planning.figures import Figures, left_out_errors
from pangu.planning.footprint import GIB, Footprint
from pangu.planning.plan import Plan, SeenRows


def plan_table(plan: Plan) -> str:
    """A markdown table of the stages with their sum, and where every assumption comes from."""
    lines = [
        f"Plan for {plan.cluster}",
        "",
        "| stage | amount | stored | core-h | device-h | wall-clock | cost | from |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in plan.stages:
        cells = [
            stage.name, f"{stage.amount:,} {stage.unit}", size(stage.stored_bytes), number(stage.core_hours),
            number(stage.device_hours), duration(stage.wall_hours), money(stage.cost, plan.currency), stage.basis,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    total = [
        "**all**", "", size(plan.stored_bytes), number(plan.core_hours), number(plan.device_hours), duration(plan.wall_hours),
        money(plan.cost, plan.currency), f"storage {money(plan.storage_cost_per_month, plan.currency)} a month",
    ]  # fmt: skip
    lines.append("| " + " | ".join(total) + " |")
    if plan.memory:
        lines += ["", *memory_table(plan.memory)]
    if plan.mixture:
        lines += ["", *mixture_table(plan.mixture)]
    if plan.assumptions:
        lines += ["", "| assumed | from |", "|---|---|"]
        lines += [f"| {name} | {source} |" for name, source in sorted(plan.assumptions.items())]
    return "\n".join(lines)


def mixture_table(found: Sequence[SeenRows]) -> list[str]:
    """Lines of a markdown table: of each dataset its share of what is drawn, and how often a row of it is."""
    roles = list(found[0].times)
    lines = [f"| dataset | rows | weight | share | {' | '.join(f'a row in train-{role}' for role in roles)} |"]
    lines.append("|---" * (len(roles) + 4) + "|")
    for one in found:
        times = [f"{number(one.times[role])} times" for role in roles]
        lines.append(f"| {one.dataset} | {one.rows:,} | {one.weight:g} | {one.share:.0%} | {' | '.join(times)} |")
    return lines


def memory_table(found: Mapping[Role, Footprint]) -> list[str]:
    """Lines of a markdown table: GiB of one device, predicted, of every job."""
    parts = ("weights", "gradients", "moments", "means", "activations", "margin", "peak", "host")
    lines = [f"| memory, GiB | at once | {' | '.join(parts)} |", "|---" * (len(parts) + 2) + "|"]
    for role, one in found.items():
        figures = [f"{getattr(one, part) / GIB:.1f}" for part in parts]
        lines.append(f"| train-{role} | {one.images} of {one.side} px | {' | '.join(figures)} |")
    return lines


def error_line(figures: Figures) -> str:
    """How far the prediction was off for the trainings that exist, each by a fit to all others."""
    errors = [abs(error) for error in left_out_errors(figures.samples).values()]
    if not errors:
        return "\nNo training has been measured beside this one, so the error of the prediction is not known."
    return (
        f"\nError of the prediction on {len(errors)} measured trainings, each by the others: median "
        f"{statistics.median(errors):.0%}, worst {max(errors):.0%}; core-seconds of a step, not wall-clock."
    )


def figures_table(figures: Figures) -> str:
    """What was measured, and how well each training is predicted by the others."""
    rows = {
        "training": f"{figures.core_gflops:.1f} GFLOP/s a core, and {1e3 * figures.step.overhead_s:.1f} ms a step",
        **{
            name: f"{1e3 * cost.image_s:.1f} ms an image, {cost.start_s:.1f} s to start, {size(cost.image_bytes)} an image"
            for name, cost in (("ingest", figures.ingest), ("prepare", figures.prepare), ("encode", figures.encode))
        },
        "decoding": f"{1e3 * figures.decode_s_per_megapixel:.0f} ms a megapixel",
        "upscaling": f"{1e3 * figures.upscale_s_per_megapixel:.0f} ms a megapixel made",
    }
    lines = [f"{figures.machine}; core-seconds", "", "| what | cost |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in rows.items()]
    errors = left_out_errors(figures.samples)
    if errors:
        lines += ["", "| training | measured, core-s | predicted by the others |", "|---|---|---|"]
        spent = {one.name: one.core_s for one in figures.samples}
        lines += [f"| {name} | {spent[name]:.2f} | {error:+.0%} |" for name, error in errors.items()]
    return "\n".join(lines)


def number(value: float) -> str:
    return "-" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(hours: float) -> str:
    """E.g. `3.2 days`, `5.0 h`, `12 s`."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 3600 >= 60 else f"{hours * 3600:.0f} s"


def money(value: float, currency: str) -> str:
    return "-" if value == 0 else f"{currency}{value:,.0f}" if value >= 10 else f"{currency}{value:.2f}"


def size(byte_count: float) -> str:
    """Decimal units."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if byte_count >= scale:
            return f"{byte_count / scale:.3g} {unit}"
    return "-" if byte_count == 0 else f"{byte_count:.0f} B"
