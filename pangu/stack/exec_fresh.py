"""`python -m pangu.stack.exec_fresh NAME COMMAND ...`: end what an earlier process of this program left, then become the command.

A server that is killed leaves its children, which keep its port: whatever is started in its place could not listen there.
"""

import os
import sys
from collections.abc import Sequence

from pangu.stack.processes import end, marked
from pangu.stack.supervision import MARK

PROGRAM = "PANGU_PROGRAM"
"""A program carries its stack and name under it, and so does everything that it starts."""


def mark_of(name: str) -> str:
    """What the processes of a program of this stack carry under `PROGRAM`."""
    return f"{os.environ[MARK]}/{name}"


def main(name: str, command: Sequence[str]) -> None:
    """Become `command`, the only process with this name in its stack."""
    mark = mark_of(name)
    end(marked(PROGRAM, mark))
    os.environ[PROGRAM] = mark
    os.execv(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
