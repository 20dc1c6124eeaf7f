"""Stages over actors on a real Ray that says it has GPUs: `HOME`. What was seen goes to `seen.json` in there.

Ray counts what it is told, so two cores are enough to see who asks for what.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from pangu.actors import Spread, WorkersLost, crew
from pangu.data.encode.stage import encode
from pangu.errors import UserError
from pangu.evaluate.eval_set import Material, Prompts
from pangu.evaluate.generate import Drawers, Drawn, Hand, alone, draw, structure_half, texture_half
from pangu.evaluate.pair_sources import PairFolder
from pangu.evaluate.protocol import Protocol
from pangu.pipelines.assemble import save_pair, untrained_pair
from pangu.recipes import tiny
from pangu.storage import Home, write_json
from tests.small_dataset import NAME

GPUS = 2


def main(home: Home) -> None:
    ray.init(num_cpus=2, num_gpus=GPUS, include_dashboard=False, log_to_driver=False, object_store_memory=150_000_000)
    seen = {
        "shares": shares(0.5),
        "whole": shares(1.0),
        "died_once": died_once(home.root / "mark"),
        "died_always": failed(always_dies),
        "bad_input": failed(bad_input),
        "bad_image": failed(partial(len), read=bad_image),
        "encoded": {str(workers): encoded(home, workers) for workers in (1, 2)},
        "drawn": drawn(home),
        "claimed_at_the_end": claimed_after_a_while(0.0),
    }
    write_json(home.root / "seen.json", seen)


def claimed() -> float:
    """GPUs that somebody holds now."""
    return GPUS - float(ray.available_resources().get("GPU", 0.0))


def claimed_after_a_while(expected: float, patience_s: float = 60.0) -> float:
    """What is claimed as soon as it is what is expected, or when patience is over."""
    until = time.monotonic() + patience_s
    while claimed() != expected and time.monotonic() < until:
        time.sleep(0.2)
    return claimed()


def who(state: Any, item: int) -> dict[str, Any]:
    time.sleep(0.2)
    return {
        "pid": os.getpid(),
        "gpus": ray.get_gpu_ids(),
        "assigned": ray.get_runtime_context().get_assigned_resources(),
    }


def shares(gpus: float) -> dict[str, Any]:
    """Who answers where a worker has such a share, and what is claimed meanwhile and after."""
    with crew("test", str, Spread(on_ray=True, gpus=gpus)) as workers:
        held = claimed_after_a_while(float(GPUS))
        answers = list(workers.map(who, range(16)))
    return {
        "items": sorted(item for item, _ in answers),
        "actors": len(workers.actors),
        "asked": sorted({answer["assigned"].get("GPU") for _, answer in answers}),
        "cpus": sorted({answer["assigned"].get("CPU", 0.0) for _, answer in answers}),
        "in_driver": os.getpid() in {answer["pid"] for _, answer in answers},
        "held": held,
        "left": claimed_after_a_while(0.0),
    }


def dies_at(state: Any, item: int, mark: Path) -> int:
    if item == 5 and not mark.exists():
        mark.write_text("died")
        os._exit(1)
    return item * item


def died_once(mark: Path) -> list[int]:
    with crew("test", str, Spread(on_ray=True)) as workers:
        return sorted(answer for _, answer in workers.map(partial(dies_at, mark=mark), range(12)))


def always_dies(state: Any, item: Any) -> None:
    os._exit(1)


def bad_input(state: Any, item: Any) -> None:
    raise UserError("The third row is not right.")


def bad_image(item: Any) -> None:
    raise UserError("The image is not right.")


def failed(compute: Any, read: Any = None) -> str:
    """The kind and the words of the error that the stage ends with."""
    try:
        with crew("test", str, Spread(on_ray=True, workers=1)) as workers:
            list(workers.map(compute, range(3), read))
    except (UserError, WorkersLost) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def encoded(home: Home, workers: int) -> dict[str, str]:
    """Digests of the files that so many actors make of the dataset of the home."""
    other = Home(home.root / f"by-{workers}")
    other.dataset(NAME).mkdir(parents=True)
    other.table(NAME).symlink_to(home.table(NAME))
    outcome = encode(NAME, 0, tiny(), other, spread=Spread(on_ray=True, workers=workers))
    return dict(digests(other.encoded(NAME, outcome.encode_id)))


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def drawn(home: Home) -> dict[str, Any]:
    """Whether so many workers, this process among them, draw what it draws alone."""
    protocol = Protocol(metrics=("retrieval",), num_inference_steps=2, guidance_scale=2.0)
    texts = tuple(f"a red fox number {number}" for number in range(20))
    prompts = Prompts("train", texts, {"en": texts, "zh": texts[::-1]})
    material = Material({"train": prompts}, {}, {})
    save_pair(untrained_pair(tiny()), home.root / "pair")
    source = PairFolder(home.root / "pair", protocol)
    reference = draw(alone(source()), material, protocol)
    found: dict[str, Any] = {}
    for count in (1, 2, 3):
        with crew("test", Hand, Spread(on_ray=True, workers=count, gpus=0.5), Hand, joins=True) as workers:
            drawers = Drawers(workers, source)
            whole = draw(drawers, material, protocol)
            halves = texture_half(drawers, structure_half(drawers, material, protocol), material)
            found[str(count)] = [len(workers.actors), same(whole, reference), same(halves, reference)]
    return found


def same(left: Drawn, right: Drawn) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for key in left for a, b in zip(left[key], right[key], strict=True)
    )


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])))
