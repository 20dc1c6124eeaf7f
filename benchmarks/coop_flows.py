"""What `coop_trained.py` trains, by the platform's own deployments: it presses their buttons and keeps what they left.

Nothing is made twice: an outcome that is kept is not asked for again, and a stack is started only where one is missing.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from coop_study import LOW
from coop_style import DRAWINGS, printed_png
from rich.console import Console

from pangu.data.card import load_card
from pangu.data.example.origin import Origin, open_origin
from pangu.demo.run import running_stack
from pangu.errors import UserError
from pangu.retrain.button import Button
from pangu.retrain.display import watch
from pangu.stack import Stack
from pangu.storage import Home, read_json, write_atomically, write_json

EVERYTHING, PRINTS = "openmoji_all", "openmoji_ink"
BATCH = 16

Outcomes = dict[str, dict[str, Any]]
"""What each stage of a flow run left, by its name."""


class Flows:
    """The deployments of the stack of one home; leave the block, and a stack that was started in it is ended."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._console = Console()
        self._stack: Stack | None = None
        self._left = contextlib.ExitStack()

    def __enter__(self) -> "Flows":
        return self

    def __exit__(self, *reason: Any) -> None:
        self._left.__exit__(*reason)

    def run(self, name: str, deployment: str, settings: dict[str, Any]) -> Outcomes:
        """The outcomes of a flow run with these settings: those kept as `name`, or else of one that is started now.

        Raises:
            UserError: the run did not complete; says its own sentence.
        """
        kept = self.home.root / "pressed" / f"{name}.json"
        if kept.is_file() and (before := read_json(kept))["settings"] == settings:
            return before["outcomes"]
        if self._stack is None:
            self._stack = self._left.enter_context(running_stack(self.home, self._console))
        self._console.print(f"{name}: {deployment}")
        button = Button(self._stack, deployment)
        run_id = button.press(settings)
        view = watch(button, run_id, self._console)
        if view.state != "COMPLETED":
            raise UserError(f"{name}: {deployment} ended as {view.state.lower()}: {view.message}")
        folder = self.home.root / "flows" / run_id
        outcomes = {path.stem: read_json(path) for path in folder.glob("*.json") if path.stem != "recipe"}
        write_json(kept, {"settings": settings, "outcomes": outcomes})
        return outcomes

    def dataset(self, card: str, name: str, serve: Callable[[Path], Origin]) -> int:
        """Version of the dataset of a card, whose images `serve` serves meanwhile under the URLs of the table at its path."""
        if (self.home.root / "pressed" / f"{name}-prepare.json").is_file():
            return read_json(self.home.root / "pressed" / f"{name}-prepare.json")["outcomes"]["prepare"]["version"]
        table = Path(load_card(card).source_uri(self.home))
        origin = serve(table)
        origin.start()
        try:
            origin.write_table(table)
            ingested = self.run(f"{name}-ingest", "ingest-images", {"card": card})["ingest"]
            settings = {"card": card, "ingest_id": ingested["ingest_id"]}
            return self.run(f"{name}-prepare", "prepare-dataset", settings)["prepare"]["version"]
        finally:
            origin.close()

    def partner(self, name: str, recipe: str, card: str, version: int, **changes: Any) -> Outcomes:
        """The outcomes of `train-partner`."""
        settings = {"card": card, "version": version, "recipe": recipe, "changes": {"batch_size": BATCH} | changes}
        return self.run(name, "train-partner", settings)


def everything(flows: Flows) -> int:
    """Version of the dataset of all that OpenMoji has, with the card's combinations held out."""
    return flows.dataset(EVERYTHING, EVERYTHING, lambda table: open_origin(None, 0, table, small_share=0.0))


def prints(flows: Flows) -> tuple[str, int]:
    """Card and version of the dataset of some drawings in two tones, with the same combinations held out."""
    changes = {"name": PRINTS, "source": f"home://demo/{PRINTS}.parquet"}
    card = flows.home.root / f"{PRINTS}.yaml"
    told = load_card(EVERYTHING).model_copy(update=changes).model_dump(mode="json", exclude_unset=True)
    write_atomically(card, yaml.safe_dump(told | changes, allow_unicode=True).encode())
    return str(card), flows.dataset(str(card), PRINTS, lambda _: Origin(DRAWINGS, 0, 0.0, printed_png))


def partner(flows: Flows, version: int, space: Path, steps: int, side: int = LOW) -> Outcomes:
    """One generator for all timesteps, tuned in English from the starter pair's structure half to latents that it never knew."""
    start = {"start_from": "embedded", "start_subfolder": "structure", "new_latents": True}
    learning = {"zh_share": 0.0, "lr_peak": 1e-3, "warmup_steps": 100, "ema_decay": 0.995}
    changes = {"steps": steps, "resolution": side, "autoencoder": str(space)}
    return flows.partner(f"partner-{side}", "single", EVERYTHING, version, **changes, **start, **learning)


def edge_control(flows: Flows, version: int, space: Path, generator: str, steps: int) -> Outcomes:
    """A ControlNet for edges on the partner, which stays as it is."""
    changes = {"steps": steps, "resolution": LOW, "autoencoder": str(space), "start_from": generator, "zh_share": 0.0}
    return flows.partner("edges", "edge_control", EVERYTHING, version, **changes)


def stylist(flows: Flows, space: Path, generator: str, steps: int) -> Outcomes:
    """The partner, tuned to drawings in two tones; latents, text and schedule stay."""
    card, version = prints(flows)
    learning = {"zh_share": 0.0, "lr_peak": 4e-4, "warmup_steps": 20, "ema_decay": 0.98}
    changes = {"steps": steps, "resolution": LOW, "autoencoder": str(space), "start_from": generator}
    return flows.partner("style", "single", card, version, **changes, **learning)
