"""What the benchmarks claim of a device: names and goals, and one JSON line for each claim. Needs nothing but Python."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """What is measured, and the bound that it has to keep. digits: as many are shown."""

    what: str
    bound: float
    at_most: bool = False
    digits: int = 2

    def holds(self, value: float) -> bool:
        """Whether a measured value keeps the bound; one that is no number does not."""
        return value <= self.bound if self.at_most else value >= self.bound

    @property
    def said(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.bound:g}"


CLAIMS: dict[str, dict[str, Goal]] = {
    "throughput": {
        "train_first_step_s": Goal("seconds to the first step of the compiled half of SDXL, no cache", 90, True, 0),
        "train_loop": Goal("images/s of the training loop, beside a plain loop with the same switches", 0.98, digits=3),
        "train_share_texture": Goal("share of the card's matrix rate, texture half at 512 px", 0.45),
        "train_share_structure": Goal("share of the card's matrix rate, structure half at 1024 px", 0.40),
        "train_memory_gib": Goal("GiB at most, structure half of `pangu_draw_5b` at 1024 px", 75, True, 1),
        "train_switches": Goal("images/s under the recipe's switches, beside the best of others", 1.0),
    },
    "sampling": {
        "sampling_step": Goal("a step of half of SDXL, 512 px, batch 2, beside a bare CUDA graph", 1.15, True),
        "sampling_embedded_ms": Goal("milliseconds a step of the embedded pair, batch 2, without HTTP", 2.5, True),
        "sampling_half_bf16": Goal("time of a half beside the whole network, 1024 px, batch 16, bf16", 0.52, True),
        "sampling_half_fp32": Goal("the same in fp32", 0.52, True),
    },
    "encode": {
        "encode_batch": Goal("images/s of the batches that encode makes, beside the autoencoder alone, bf16", 0.9),
    },
    "serve": {
        "pools_embedded": Goal("images/s of crowded pools beside the pipeline in a loop, embedded pair", 1.5),
        "pools_half": Goal("the same, half of SDXL at 512 px", 1.5),
    },
}
"""Script of this folder -> its claims on a device; `serve` has more, about HTTP and Ray (`serve.py`)."""

GOALS = {name: goal for claims in CLAIMS.values() for name, goal in claims.items()}


def claim(name: str, value: float, **facts: Any) -> None:
    """Print what was measured. facts: whatever else the reader of the line wants to know."""
    goal = GOALS[name]
    line = {"name": name, "value": round(value, 4), "goal": goal.bound, "holds": goal.holds(value)}
    print(json.dumps(line | {key: _rounded(fact) for key, fact in facts.items()}), flush=True)


def not_run(name: str, why: str) -> None:
    """Print that a claim was not measured, and why."""
    print(json.dumps({"name": name, "value": None, "goal": GOALS[name].bound, "holds": None, "why": why}), flush=True)


def _rounded(fact: Any) -> Any:
    if isinstance(fact, dict):
        return {key: _rounded(value) for key, value in fact.items()}
    return round(fact, 4) if isinstance(fact, float) else fact
