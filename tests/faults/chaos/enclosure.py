"""A machine of one's own for a fault run: a small disk, a loopback interface and a process table that nobody else sees.

Linux namespaces, for which nobody needs any right: what a fault does stays inside, and all of it ends with the first process.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
PREPARE = 'mount -t tmpfs -o size="$1"m small "$2" && ip link set lo up && shift 2 && "$@"; exit $?'
"""The shell stays the first process, and takes in the children of those that were killed."""


def enclosed(command: Sequence[str], disk: Path, mebibytes: int) -> list[str]:
    """The command line that runs `command` inside, with a disk of that size at the folder `disk`."""
    return [*UNSHARE, "sh", "-c", PREPARE, "sh", str(mebibytes), str(disk), *command]


def is_possible(scratch: Path) -> bool:
    """Whether this system lets its users have such a machine."""
    try:
        return subprocess.run(enclosed(["true"], scratch, 1), capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
