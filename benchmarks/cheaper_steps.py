"""What each switch that makes steps cheaper saves and costs: the embedded pair at 96 px, every switch beside the plain pair.

    python benchmarks/cheaper_steps.py [--rounds 5] [--pictures 16] [--students FOLDER] [--flows FOLDER [--guidance 3]]

One core. Time: core-seconds of one picture, text and decoder in it; every round draws one by each switch, in changing
order, and the ratio is the median over rounds. PSNR: of the pictures of eight prompts in two languages against the plain pair's,
from the same noise. Memory: of the weights of both halves, as loaded in fp32, and of what a request keeps between steps. FOLDER:
the --home of `few_steps.py`, whose students are drawn with too. Goal: a switch pays if it saves a tenth of the time, or of the
weights' memory.

With --flows, in the place of all that: the switches of transformers on the trained pair of SANA halves in the --home of
`kinds_of_experts.py`, whose magnitudes are measured first (seconds). What a request keeps is not counted there.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pangu.config import ROLES, Reuse
from pangu.exchange.quantise_pair import quantise_pair
from pangu.models.deep_features import feature_channels
from pangu.models.inner_tensors import inner_tensors
from pangu.pipelines.experts_pipeline import load_pair
from pangu.pipelines.measured_magnitudes import measure_magnitudes
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.starter.pair import starter_pair
from pangu.storage import Home

STEPS, GUIDANCE, SIDE = 20, 3.0, 12
PROMPTS = ("a fox", "snowman", "一座城堡", "red apple", "企鹅", "rocket", "umbrella", "向日葵")
INTERVAL = (100.0, 900.0)
PAYS = 0.9
"""Most of the time, or of the weights' memory, that a switch may take to be worth its name."""


@dataclass
class Switch:
    """reuse: of both halves. options: of the call."""

    pair: PanGuDrawPipeline
    reuse: Reuse | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    guidance: float = GUIDANCE

    def draw(self, prompt: str, seed: int) -> np.ndarray:
        """(H, W, 3) in [0, 255]."""
        self.pair.set_reuse({} if self.reuse is None else dict.fromkeys(ROLES, self.reuse))
        noise = torch.Generator().manual_seed(seed)
        asked = {"num_inference_steps": self.steps, "guidance_scale": self.guidance, "generator": noise, **self.options}
        return np.asarray(self.pair(prompt, **asked).images[0], np.float32)

    @property
    def weights(self) -> int:
        """Bytes of both halves."""
        every = (parameter.data for role in ROLES for parameter in self.pair.generator(role).parameters())
        return sum(part.nbytes for parameter in every for _, part in inner_tensors(parameter))

    @property
    def kept(self) -> int | None:
        """Bytes of one guided picture between two steps; None where nobody counts them."""
        if self.reuse is not None and self.reuse.kind != "deep_features":
            return None
        return 0 if self.reuse is None else 2 * feature_channels(self.pair.structure) * SIDE * SIDE * 4


def switches(home: Home, students: PanGuDrawPipeline | None) -> dict[str, Switch]:
    plain = starter_pair()
    quantise_pair("embedded", "int8", home)
    int8 = load_pair(home.pair("int8"))
    interval = {"guidance_interval": INTERVAL}
    found = {
        "plain": Switch(plain),
        "int8": Switch(int8),
        "reuse2": Switch(plain, Reuse(every=2)),
        "reuse3": Switch(plain, Reuse(every=3)),
        "interval": Switch(plain, options=interval),
        "reuse2_interval": Switch(plain, Reuse(every=2), interval),
        "reuse3_interval": Switch(plain, Reuse(every=3), interval),
        "int8_reuse2_interval": Switch(int8, Reuse(every=2), interval),
        # What a switch is to be judged by: a plain pair in fewer steps.
        "steps13": Switch(plain, steps=13),
        "steps10": Switch(plain, steps=10),
    }
    return found | ({"distilled": Switch(students, steps=4)} if students is not None else {})


def switches_of_flows(home: Home, guidance: float) -> dict[str, Switch]:
    """Of the longest trained pair of transformers there."""
    from kinds_of_experts import pair_of, recipe_of, trained_halves

    pair = pair_of("flow", "flow", trained_halves(home), recipe_of("flow", 1.0))
    for role in ROLES:
        measure_magnitudes(pair, role, PROMPTS, guidance_scale=guidance)
    found = {"plain": Switch(pair, guidance=guidance)}
    for name, reuse in (
        ("mag2", Reuse(kind="mag", every=2)),
        ("mag3", Reuse(kind="mag", every=3, threshold=0.2)),
        ("mag4", Reuse(kind="mag", every=4, threshold=0.5)),
        ("first_block05", Reuse(kind="first_block")),
        ("first_block20", Reuse(kind="first_block", threshold=0.2)),
        ("taylor2", Reuse(kind="taylor", every=2)),
        ("taylor3", Reuse(kind="taylor", every=3)),
    ):
        found[name] = Switch(pair, reuse, guidance=guidance)
    fewer = {f"steps{steps}": Switch(pair, steps=steps, guidance=guidance) for steps in (13, 10)}
    return found | fewer


def students_in(folder: Path | None) -> PanGuDrawPipeline | None:
    """The pair of both students of two steps that `few_steps.py` left there."""
    if folder is None:
        return None
    from few_steps import pair_of, students_in

    return pair_of(students_in(Home(folder.absolute()), 2), starter_pair())


def core_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB; 99 for the same picture."""
    error = float(np.square(one - other).mean())
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255**2 / error)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--students", type=Path, default=None)
    parser.add_argument("--flows", type=Path, default=None)
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="of --flows; 1 asks for one row a picture")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.flows is not None:
        every = switches_of_flows(Home(asked.flows.absolute()), asked.guidance)
    else:
        with tempfile.TemporaryDirectory() as folder:
            every = switches(Home(Path(folder)), students_in(asked.students))
    for switch in every.values():
        switch.pair.set_progress_bar_config(disable=True)
        switch.draw(PROMPTS[0], 0)
    names, taken = list(every), {name: list[float]() for name in every}
    for turn in range(asked.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(core_seconds(lambda name=name, turn=turn: every[name].draw(PROMPTS[0], turn)))  # type: ignore[misc]
    shown = [(PROMPTS[number % len(PROMPTS)], 100 + number) for number in range(asked.pictures)]
    wanted = [every["plain"].draw(*one) for one in shown]
    for name, switch in every.items():
        ratio = statistics.median(own / plain for own, plain in zip(taken[name], taken["plain"], strict=True))
        memory = switch.weights / every["plain"].weights
        noise = [psnr(switch.draw(*one), plain) for one, plain in zip(shown, wanted, strict=True)]
        line = {
            "name": f"cheaper_steps_{'flow_' if asked.flows else ''}{name}",
            "value": round(ratio, 3),
            "goal": PAYS,
            "holds": None if name == "plain" else ratio <= PAYS or memory <= PAYS,
            "core_seconds": round(statistics.median(taken[name]), 4),
            "weights_mb": round(switch.weights / 1e6, 2),
            "kept_kb": None if switch.kept is None else round(switch.kept / 1e3, 1),
            "psnr_db": round(statistics.mean(noise), 1),
            "psnr_least_db": round(min(noise), 1),
        }
        print(json.dumps(line), flush=True)
    if "distilled" not in every and asked.flows is None:
        print(
            json.dumps(
                {"name": "cheaper_steps_distilled", "value": None, "goal": PAYS, "holds": None, "why": "no --students"}
            )
        )


if __name__ == "__main__":
    main()
