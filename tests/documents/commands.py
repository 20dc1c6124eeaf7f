"""Lines of shell as documents show them, held against the real programs without running them."""

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.documents.blocks import ROOT

KNOWN = {"apt", "cd", "cp", "curl", "docker", "export", "git", "kubectl", "mlflow", "npm", "python"}
"""Programs of others; paths of this repository in their arguments must exist."""


@cache
def group() -> Any:
    import typer

    from pangu.cli import whole

    return typer.main.get_command(whole())


def lines(text: str) -> Iterator[str]:
    """Commands of a block, continued lines joined, comments and what follows a pipe or a redirection left out."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s&&\s|;\s", re.sub(r"\s+#.*$", "", line)):
            command = re.split(r"\s(?:[|>]|2>)\s", part.strip())[0].strip()
            if command and not command.startswith("#"):
                yield command


def check(line: str) -> None:
    """Raises AssertionError, or what the program itself raises, if a command could not be given like this."""
    words = shlex.split(line)
    if words[0] == "pangu":
        for variant in itertools.product(*(word.strip("[]").split("|") for word in words[1:])):
            check_pangu(list(variant))
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w%.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, f"no such target: {line}"
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {name for word in words for name in re.findall(r"pangu\[(\w+)\]", word)} <= extras.keys(), line
    else:
        assert words[0] in KNOWN, f"an unknown program: {line}"
        for word in words:
            if re.match(r"(infra|tests|datasets|docs|pangu|benchmarks)/", word) and not word.endswith("/.env"):
                assert (ROOT / word).exists(), f"{word} is not there: {line}"


def check_pangu(words: list[str]) -> None:
    """Parses them as the command would: names, options, types of values, number of arguments."""
    command = group()
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no command {words}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))
