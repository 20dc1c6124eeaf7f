"""The table of a campaign, and its verdict in one line."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.faults.chaos.campaign import Campaign

KINDS = ("acknowledged work lost", "duplicate rows or versions", "hung runs", "orphans", "cancelled in vain")


def table(campaign: Campaign, cancels: Sequence[float], seconds: float) -> str:
    """Markdown: what was injected and how long it took to go on, and what was found broken."""
    lines = ["| fault | times | recovery p50 | p99 |", "|---|---|---|---|"]
    for name in sorted({one.fault for one in campaign.recovered}):
        lines.append(_line(name, [one.seconds for one in campaign.recovered if one.fault == name]))
    lines.append(_line("**all**", [one.seconds for one in campaign.recovered]))
    lines.append(_line("from *Cancel* until nothing was left", cancels))
    lines += ["", "| must be 0 | found |", "|---|---|"]
    lines += [f"| {kind} | {len(campaign.complaints.get(kind, []))} |" for kind in KINDS]
    lines.append(
        f"\n{campaign.completed} retrainings done in {len(campaign.runs)} runs, {campaign.oracle.acknowledged} acknowledgements, "
        f"{campaign.restarts} starts of the stack, {seconds:.0f} s."
    )
    return "\n".join(lines)


def _line(name: str, seconds: Sequence[float]) -> str:
    if not seconds:
        return f"| {name} | 0 | - | - |"
    return f"| {name} | {len(seconds)} | {np.percentile(seconds, 50):.1f} s | {np.percentile(seconds, 99):.1f} s |"


def verdict(campaign: Campaign, cancels: Sequence[float]) -> dict[str, Any]:
    """Holds if everything that must be 0 is; seconds are figures of the machine that they were measured on."""
    broken = sum(len(campaign.complaints.get(kind, [])) for kind in KINDS)
    seconds = [one.seconds for one in campaign.recovered] or [0.0]
    return {
        "name": "chaos", "value": broken, "goal": 0, "holds": broken == 0, "faults": len(campaign.recovered),
        **{kind.replace(" ", "_"): len(campaign.complaints.get(kind, [])) for kind in KINDS},
        "retrainings": campaign.completed, "recovery_p50_s": round(float(np.percentile(seconds, 50)), 1),
        "cancel_max_s": round(max(cancels, default=0.0), 1), "recovery_p99_s": round(float(np.percentile(seconds, 99)), 1),
    }  # fmt: skip
