"""One fault after the other while retrainings run: injected, survived, timed."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import psutil

from pangu.errors import UserError
from pangu.retrain.button import Button
from pangu.stack import Stack, down, up
from pangu.stack.health import parts
from pangu.storage import Home
from tests.faults.chaos.faults import Broken, Fault, line
from tests.faults.chaos.oracle import Oracle, left_over
from tests.faults.chaos.work import Retraining, Work, is_over, was_stopped_by_the_gate

HUNG_S = 900.0
"""A fault whose work has not gone on by then has hung it; no part of the main job takes so long, on a busy machine either."""
PATIENCE_S = 60.0
"""The next fault does not wait longer for the work to go on after the one before."""
GRACE_S = 45.0
"""How long after its end a run may still have something to clear away."""
POLL_S = 1.0
MILESTONES = (
    "flows/*/[!r]*.json", "datasets/*/raw/*/shards/*.parquet", "datasets/*/table/_delta_log/*.json", "datasets/*/encoded/*/*",
    "runs/*/checkpoints/step-*", "runs/*/outcome.json", "pairs/*", "pair-cache/*",
)  # fmt: skip
"""What appears as the work goes on, outcomes of stages among it."""
NOBODY_ANSWERS = (httpx.HTTPError, OSError, UserError, psutil.Error)


@dataclass(frozen=True)
class Recovered:
    """One fault, and the seconds from its end until every part answered and the work had got further."""

    fault: str
    what: str
    seconds: float


@dataclass(frozen=True)
class _Open:
    """A fault that the work has not got over yet, and how far the work was."""

    fault: str
    what: str
    since: float
    milestones: set[Path]
    completed: int


@dataclass
class Campaign:
    """The state of one campaign: what was done, what was found."""

    home: Home
    work: Work
    rng: Random
    say: Callable[[str], None]
    faults: Sequence[Fault]
    pause_s: float = 10.0
    """Faults follow the recovery from the one before by up to so much."""
    recovered: list[Recovered] = field(default_factory=list)
    complaints: dict[str, list[str]] = field(default_factory=dict)
    completed: int = 0
    runs: list[str] = field(default_factory=list)
    """Ids of all flow runs that were asked for."""
    restarts: int = 0
    served: bool = False
    done: Counter[str] = field(default_factory=Counter)
    _open: list[_Open] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.home)
        self.stack = self._up()
        self.current: Retraining = self.work.retraining(0)

    def run(self, faults: int, seconds: float) -> None:
        """So many faults, or as many as fit into the time; then the last retraining is left alone until it is done."""
        deadline = time.monotonic() + seconds
        self._wait(lambda: bool(self.current.runs), HUNG_S)
        while self.injected < faults and time.monotonic() < deadline:
            self._pause(self.rng.uniform(0, self.pause_s))
            self._one_fault()
            self._wait(lambda: not self._open, PATIENCE_S)
        last = self.completed
        if not self._wait(lambda: self.completed > last, HUNG_S):
            self._complain("hung runs", [f"retraining {self.current.number} did not end without further faults"])
        self.check()

    @property
    def injected(self) -> int:
        return len(self.recovered) + len(self._open)

    def check(self) -> None:
        """Every invariant, now that no run should be under way."""
        for kind, found in self.oracle.look(self.stack, self.runs).items():
            self._complain(kind, found)
        deadline, found = time.monotonic() + GRACE_S, left_over(self.stack)
        while found and time.monotonic() < deadline:
            time.sleep(1)
            found = left_over(self.stack)
        self._complain("orphans", found)

    def _one_fault(self) -> None:
        fault, what = self._inject()
        self.done[fault.name] += 1
        self._open.append(_Open(fault.name, what, time.monotonic(), self._milestones(), self.completed))
        self.say(f"{self.injected}: {fault.name}: {what}")

    def _close(self) -> None:
        """Which faults are survived by now, and which have hung everything."""
        if not self._open:
            return
        now, milestones = time.monotonic(), self._milestones()
        further = [one for one in self._open if self.completed > one.completed or milestones - one.milestones]
        answers = bool(further) and self._answers()
        for one in list(self._open):
            hung = now - one.since > HUNG_S
            if (answers and one in further) or hung:
                self._open.remove(one)
                self.recovered.append(Recovered(one.fault, one.what, now - one.since))
                self.say(f"   {one.fault} {'HUNG' if hung else 'survived'} after {now - one.since:.1f} s")
            if hung:
                self._complain("hung runs", [f"{one.fault}: {one.what}"])
                down(self.home, say=lambda text: None)

    def _inject(self) -> tuple[Fault, str]:
        """The fault that was done: one of those done least, of the ones that find something to hit."""
        while True:
            order = sorted(self.faults, key=lambda fault: (self.done[fault.name] + self.rng.random()) / fault.weight)
            for fault in order:
                with suppress(*NOBODY_ANSWERS):
                    try:
                        what = fault.inject(self.stack, self.rng)
                    except Broken as error:
                        what = str(error)
                        self._complain("cancelled in vain", [what])
                    if what is not None:
                        return fault, what
            self._tend()

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._tend()
            with suppress(*NOBODY_ANSWERS):
                self._close()
                if condition():
                    return True
            time.sleep(POLL_S)
        return False

    def _pause(self, seconds: float) -> None:
        self._wait(lambda: False, seconds)

    def _tend(self) -> None:
        """What a person would do who watches: start the stack that is gone, ask again for what failed, and for the next."""
        with suppress(*NOBODY_ANSWERS):
            if not self.stack.is_running:
                self.stack = self._up()
            if not self.current.runs:
                self._press()
                return
            view = self.button.look(self.current.runs[-1])
            if not is_over(view):
                return
            self.say(f"   run {view.state}: {view.message[:150]}")
            if view.state == "COMPLETED" or was_stopped_by_the_gate(view):
                self.served = self.served or (view.state == "COMPLETED" and self.current.serves)
                self._next()
            else:
                self._press()

    def _press(self) -> None:
        self.runs.append(self.work.press(self.stack, self.current))

    def _next(self) -> None:
        self.check()
        self.completed += 1
        self.current = self.work.retraining(self.completed)

    def _up(self) -> Stack:
        self.restarts += 1
        stack = up(self.home, say=lambda text: None, customary_ports=False)
        self.button = Button(stack, self.work.deployment)
        return stack

    def _answers(self) -> bool:
        """Every part does; the served API too, once something was deployed."""
        return all(part.check(self.stack) for part in parts(self.stack) if self.served or not part.optional)

    def _milestones(self) -> set[Path]:
        return {path for pattern in MILESTONES for path in self.home.root.glob(pattern)}

    def _complain(self, kind: str, found: list[str]) -> None:
        known = self.complaints.setdefault(kind, [])
        for one in found:
            if one not in known:
                known.append(one)
                self.say(f"   !! {kind}: {one}")

    def orphans_after(self, left: list[psutil.Process]) -> None:
        """What `pangu down` left behind."""
        self._complain("orphans", [f"after down: {process.pid} {line(process)[:80]}" for process in left])
