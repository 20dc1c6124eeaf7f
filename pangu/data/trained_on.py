"""What a generator was trained on where that is a mixture: the datasets, their weights, and the licences of their images.

`trained_on.json` of a run folder and of the generator that it made. One dataset stands in the generator's contract.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from pangu.config import Frozen
from pangu.storage import read_json, write_json

FILE = "trained_on.json"


class TrainedPart(Frozen):
    """One dataset of a mixture."""

    dataset: str
    version: int
    encode_id: str
    weight: float
    rows: int
    licences: dict[str, int] = Field(
        description="Licence -> training rows; empty where the table cannot be read from here"
    )

    def said(self) -> str:
        """For people, e.g. `photos 3 x 0.5 (CC0: 24)`."""
        licences = ", ".join(f"{name or 'no licence'}: {rows}" for name, rows in self.licences.items())
        return f"{self.dataset} {self.version} x {self.weight:g} ({licences or 'licences unknown'})"


class TrainedOn(Frozen):
    """All datasets of a mixture, that which the training was told first."""

    parts: tuple[TrainedPart, ...]

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> "TrainedOn | None":
        """None where no mixture was trained on."""
        path = folder / FILE
        return cls.model_validate(read_json(path)) if path.is_file() else None

    def said(self) -> str:
        return "; ".join(part.said() for part in self.parts)

    @property
    def licences(self) -> list[str]:
        """Every licence of any part once, in order."""
        return sorted({name for part in self.parts for name in part.licences if name})

    def tags(self) -> Iterator[tuple[str, str]]:
        """Of MLflow's runs and versions."""
        yield "pangu.mixture", self.said()
        yield "pangu.licences", "; ".join(self.licences)
