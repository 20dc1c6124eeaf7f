"""One data-parallel worker of a training job, with gloo on loopback, as a process of its own.

Each row that it draws is noted in the run folder (`drawn-SIZE-RANK.txt`), one line a batch. The worker that has drawn
`killed_at` batches (0: never) is killed where it stands. The latents of row `spoilt` (-1: none) are NaN.
"""

import json
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed
from safetensors.torch import load_file
from torch import Tensor

from pangu.train import worker
from pangu.train.job import TrainJob
from pangu.train.world import World


class Noted:
    """Rows that note which of them are drawn."""

    def __init__(self, rows: Any, path: Path, killed_at: int, spoilt: int) -> None:
        self._rows, self._path, self._killed_at, self._spoilt, self._drawn = rows, path, killed_at, spoilt, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def __len__(self) -> int:
        return len(self._rows)

    def latents(self, rows: Sequence[int]) -> Tensor:
        with self._path.open("a") as file:
            file.write(" ".join(map(str, rows)) + "\n")
        self._drawn += 1
        if self._drawn == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        latents = self._rows.latents(rows)
        latents[[row == self._spoilt for row in rows]] = math.nan
        return latents


def main(job: TrainJob, rank: int, size: int, port: int, killed_at: int, spoilt: int = -1) -> None:
    torch.set_num_threads(1)
    if size > 1:
        address = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    job.run_folder.mkdir(parents=True, exist_ok=True)
    load, note = worker.load_mixture, job.run_folder / f"drawn-{size}-{rank}.txt"
    worker.load_mixture = lambda *arguments: Noted(load(*arguments), note, killed_at, spoilt)  # type: ignore[assignment]
    worker.work(job, World(rank, size))
    if size > 1:
        torch.distributed.destroy_process_group()


def read_together(rank: int, size: int, port: int, folder: Path) -> None:
    """Every worker asks for the tensors of `folder`/read; what each got, and whether it read them itself, is noted there."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    world, mine = World(rank, size), []

    def read() -> dict[str, Tensor]:
        mine.append(True)
        return load_file(folder / "read")

    found = world.shared(read)
    try:
        world.agreed(lambda: load_file(folder / "missing"))
        said = "nothing"
    except FileNotFoundError as error:
        said = type(error).__name__
    told = {name: [str(tensor.dtype), tensor.tolist()] for name, tensor in found.items()}
    (folder / f"noted-{rank}.json").write_text(json.dumps([told, mine, said]))
    torch.distributed.destroy_process_group()
