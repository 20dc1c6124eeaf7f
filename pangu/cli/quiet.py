"""A command that shows nothing for five seconds says what it does, to a person on a terminal; and what it need not say."""

import logging
import sys
import threading
import time

from pangu.progress import Display, for_machines, print_progress

FIRST_S, LONGEST_S = 5.0, 60.0
"""Silence after which it speaks; each further one is twice as long, up to the longest."""
COMMANDS = (
    "ingest", "prepare", "encode", "train", "evaluate", "pair-matrix", "boundary", "gate", "release", "deploy", "rollback",
    "assemble", "import", "quantise", "export", "push", "backup", "restore", "calibrate",
)  # fmt: skip
"""Those that work and end by themselves. `up`, `retrain` and `demo` tell what they wait for."""


IMPORTED = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Who warns while torchao is imported, which diffusers does wherever it is installed: of libraries for devices that are not
here, and of names that nobody here uses."""


def hush_imports() -> None:
    """Let every command begin without those warnings; errors are still said."""
    for name in IMPORTED:
        logging.getLogger(name).setLevel(logging.ERROR)


class Silence:
    """What is to be said of a command, by how long its display has shown nothing new."""

    def __init__(self, command: str, does: str, display: Display, now: float) -> None:
        self._command, self._does, self._display = command, does, display
        self._began = self._said = now
        self._patience_s = FIRST_S

    def look(self, now: float) -> str:
        """The sentence for this moment, or ""; times in seconds of the monotonic clock."""
        shown = max(self._began, self._display.shown_at)
        if shown > self._said:
            self._patience_s = FIRST_S
        if now - max(shown, self._said) < self._patience_s:
            return ""
        self._said, self._patience_s = now, min(2 * self._patience_s, LONGEST_S)
        return f"{self._command}: at work for {now - self._began:.0f} s. It is to {self._does}"


def speak_up(command: str, help_text: str) -> None:
    """Begin to listen to a command, if its standard error is a terminal; ends with the process."""
    if command not in COMMANDS or for_machines() or not sys.stderr.isatty():
        return
    first = help_text.partition("\n")[0]
    silence = Silence(command, first[:1].lower() + first[1:], print_progress, time.monotonic())

    def listen() -> None:
        while True:
            time.sleep(1.0)
            if said := silence.look(time.monotonic()):
                print_progress.say(said)

    threading.Thread(target=listen, daemon=True).start()
