"""`pangu doctor`: what this machine lacks or has too little of, each with its remedy. Looks, and changes nothing."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.stack import object_storage, postgres
from pangu.stack.model import Stack
from pangu.stack.ports import CUSTOMARY, is_listening
from pangu.stack.profile import ProfileName, choose, recorded
from pangu.stack.programs import OBJECT_STORE_BYTES
from pangu.storage import Home

GIB = 2**30
MEMORY_BYTES = 6 * GIB
"""What the demo took at most."""
DISK_BYTES = 10 * GIB
OPEN_FILES = 4096
SUPPORTED = ((3, 11), (3, 13))
"""The oldest and the newest Python that the list of pins is tried with."""
NEWEST_FASTAPI = (0, 155)
"""From this version on Prefect's server dies at import."""


class Finding(Frozen):
    """What was looked at. A failure keeps the stack from working, a warning makes it slow, small or different."""

    what: str
    state: str
    """`ok`, `warning` or `failure`."""
    found: str
    remedy: str = ""


def examine(home: Home, profile: ProfileName | None = None) -> list[Finding]:
    """Look at everything that the profile needs; None: the one that the home began with."""
    found = [finding for look in LOOKS for finding in look(home)]
    known = recorded(home)
    name = profile or (known.name if known else "laptop")
    return found if name == "laptop" else [*found, *server_profile(home)]


def server_profile(home: Home) -> Iterable[Finding]:
    """PostgreSQL, object storage and the packages that speak with them."""
    for package in ("psycopg2", "boto3"):
        there = find_spec(package) is not None
        yield _finding(package, there, "installed" if there else "missing", "pip install 'pangu[server]'")
    try:
        chosen = choose(home, "server")
    except UserError as error:
        yield _finding("profile", False, "incomplete", str(error))
        return
    yield _finding("profile", True, f"server; {', '.join(chosen.in_object_storage)}", "")
    yield _looked_at("object storage", chosen.endpoint or "AWS", lambda: object_storage.check(chosen))
    if not chosen.postgres:
        yield _looked_at("PostgreSQL", "one of our own", lambda: postgres.check(home))


def _looked_at(what: str, found: str, look: Callable[[], None]) -> Finding:
    """What a check that raises its own sentence finds."""
    try:
        look()
    except UserError as error:
        return _finding(what, False, "not usable", str(error))
    return _finding(what, True, found, "")


def python_version(home: Home) -> Iterable[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]
    yield _finding("Python", good, found, "install Python 3.11, 3.12 or 3.13 and make the environment again")


def packages(home: Home) -> Iterable[Finding]:
    """Versions that are known not to work together."""
    try:
        fastapi = version("fastapi")
    except PackageNotFoundError:
        yield _finding("fastapi", False, "missing", "run `make setup`")
        return
    good = tuple(int(part) for part in fastapi.split(".")[:2]) < NEWEST_FASTAPI
    yield _finding("fastapi", good, fastapi, "Prefect needs one below 0.155: pip install -c constraints.txt fastapi")
    try:
        torchvision = version("torchvision")
    except PackageNotFoundError:
        return
    good = "+cpu" not in version("torch")
    yield _finding("torchvision", good, torchvision, "there is none for this torch: pip uninstall torchvision")


def memory(home: Home) -> Iterable[Finding]:
    free = psutil.virtual_memory().available
    remedy = f"the demo takes {MEMORY_BYTES / GIB:.0f} GiB: end other programs"
    yield _finding("memory", free >= MEMORY_BYTES, f"{free / GIB:.1f} GiB free", remedy, "warning")


def shared_memory(home: Home) -> Iterable[Finding]:
    """Ray's objects lie there; where it is too small, they go to disk."""
    place = Path("/dev/shm")
    if place.is_dir():
        free = shutil.disk_usage(place).free
        remedy = f"Ray wants {OBJECT_STORE_BYTES / GIB:.2f} GiB; in a container: --shm-size=1g"
        yield _finding("shared memory", free >= OBJECT_STORE_BYTES, f"{free / GIB:.2f} GiB free", remedy, "warning")


def disk(home: Home) -> Iterable[Finding]:
    place = next(folder for folder in (home.root, *home.root.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    remedy = "free some, or set PANGU_HOME to a larger disk; `pangu dataset vacuum` deletes old versions"
    yield _finding("disk", free >= DISK_BYTES, f"{free / GIB:.1f} GiB free under {place}", remedy, "warning")
    writable = os.access(place, os.W_OK)
    yield _finding(
        "home", writable, str(home.root), f"{place} can not be written to: set PANGU_HOME to a folder of yours"
    )


def open_files(home: Home) -> Iterable[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft >= OPEN_FILES or soft == resource.RLIM_INFINITY
    yield _finding("open files", good, f"at most {soft}", f"raise the limit: ulimit -n {OPEN_FILES}", "warning")


def ports(home: Home) -> Iterable[Finding]:
    """Customary ports that somebody else listens on; `up` then takes others."""
    stack = Stack.load(home)
    ours = {getattr(stack, name) for name in CUSTOMARY} if stack is not None and stack.is_running else set()
    for name, port in CUSTOMARY.items():
        taken = port not in ours and is_listening(port)
        part = name.removesuffix("_port").replace("_", " ")
        remedy = f"`pangu up` takes another one for {part}; end who holds it for the customary one"
        yield _finding(f"port {port}", not taken, "taken" if taken else "free or ours", remedy, "warning")


def half_started(home: Home) -> Iterable[Finding]:
    stack = Stack.load(home)
    if stack is not None and not stack.is_complete:
        yield _finding(
            "stack", False, "killed while it started or ran", "`pangu up` begins it again, `pangu down` clears it"
        )


LOOKS: tuple[Callable[[Home], Iterable[Finding]], ...] = (
    python_version, packages, memory, shared_memory, disk, open_files, ports, half_started,
)  # fmt: skip


def _finding(what: str, good: bool, found: str, remedy: str, otherwise: str = "failure") -> Finding:
    return Finding(what=what, state="ok" if good else otherwise, found=found, remedy="" if good else remedy)
