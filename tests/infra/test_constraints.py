"""constraints.txt is whole: `make setup` installs what it names and asks for nothing else."""

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINNED = {
    canonicalize_name(line.partition("==")[0]): line.partition("==")[2].strip()
    for line in (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
LEFT_OUT = {"setuptools", "torchvision"}
"""The first comes with torch, which is installed with what it asks for; spandrel works without the second, and no build of
that fits torch without CUDA."""


def needed(name: str, extras: frozenset[str]) -> set[Requirement]:
    """What `name[extras]` asks for on this machine."""
    try:
        listed = [Requirement(one) for one in requires(name) or []]
    except PackageNotFoundError:
        return set()
    environments = [{"extra": extra} for extra in extras or {""}]
    return {one for one in listed if one.marker is None or any(one.marker.evaluate(each) for each in environments)}


def test_everything_that_is_needed_is_pinned_to_a_version_that_its_users_accept() -> None:
    waiting, seen, missing = [("pangu", frozenset({"dev", "gpu"}))], set[tuple[str, frozenset[str]]](), set[str]()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for one in needed(name, extras):
            other = canonicalize_name(one.name)
            if other == "pangu" or other in LEFT_OUT:
                pass
            elif other not in PINNED:
                missing.add(f"{other}, for {name}")
            elif not one.specifier.contains(PINNED[other].partition("+")[0], prereleases=True):
                missing.add(f"{one}, for {name}, is {PINNED[other]}")
            waiting.append((other, frozenset(one.extras)))
    assert len(seen) > 100
    assert not missing
