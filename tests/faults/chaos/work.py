"""What the stack is given to do: one retraining after the other, each with new images, a new seed and a new pair. A short
campaign has time for the first stage only.

A retraining that ends badly is asked for again, as a person would, until it has completed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.example.origin import Origin
from pangu.retrain.button import FINAL, Button, RunView
from pangu.stack import Stack
from pangu.storage import write_atomically

NAME = "chaos"
ROWS, NEW_ROWS = 12, 4
"""Images that a retraining lists, and how many of them the one before did not have."""
ROUNDS = 60
CARD = """\
name: chaos
source: urls-{number}.parquet
columns: {{url: url, caption_en: caption_en, caption_zh: caption_zh}}
licence: {{name: CC BY-SA 4.0}}
texture_min_side: 64
upscale: {{target_side: 96, upscaler: lanczos, min_timestep: 300}}
limits:
  {{max_seconds: 4, retries: 1, stall_seconds: 120, total_seconds: 900, memory_mb: 2048, processes: 1, threads: 2,
    rows_per_shard: 4, allow_private_hosts: ["127.0.0.1"]}}
"""


@dataclass
class Retraining:
    """One retraining, pressed as often as it takes."""

    number: int
    settings: dict[str, Any]
    runs: list[str] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        """Whether a pair is deployed when it has completed."""
        return bool(self.settings.get("deploy"))


class Work:
    """The retrainings of one home. The images come from a server in this process, which no fault hits."""

    def __init__(self, folder: Path, steps: int, deployment: str = "retrain-pair") -> None:
        self._folder, self._steps, self.deployment = folder, steps, deployment
        self._origin = Origin(ROWS + NEW_ROWS * ROUNDS)
        self._origin.start()
        self._rows = [row for row in self._origin.rows() if "/broken/" not in row["url"]]

    def press(self, stack: Stack, retraining: Retraining) -> str:
        """Ask for it, as the dashboard's form would; the flow run's id."""
        retraining.runs.append(Button(stack, self.deployment).press(retraining.settings))
        return retraining.runs[-1]

    def close(self) -> None:
        self._origin.close()

    def retraining(self, number: int) -> Retraining:
        """The `number`-th one: its table and its card lie in the folder when this returns."""
        first = number % ROUNDS * NEW_ROWS
        columns = ("url", "caption_en", "caption_zh")
        listed = [{name: row[name] for name in columns} for row in self._rows[first : first + ROWS]]
        pq.write_table(pa.Table.from_pylist(listed), self._folder / f"urls-{number}.parquet")
        card = self._folder / f"{NAME}-{number}.yaml"
        write_atomically(card, CARD.format(number=number).encode())
        if self.deployment == "ingest-images":
            return Retraining(number, {"card": str(card)})
        changes = {"structure_steps": self._steps, "texture_steps": self._steps, "seed": number}
        settings = {"card": str(card), "recipe": "tiny", "changes": changes, "evaluation": {"prompts": 4}}
        return Retraining(number, settings | {"deploy": True})


def is_over(view: RunView) -> bool:
    return view.state in FINAL


def was_stopped_by_the_gate(view: RunView) -> bool:
    """A verdict about the pair, and no accident."""
    return view.state == "FAILED" and any(stage.name == "gate" and stage.state == "COMPLETED" for stage in view.stages)
