"""A real stack for some tests: Prefect, MLflow and Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pangu.stack import Stack, down, up
from pangu.storage import Home
from tests import nasty


@contextmanager
def own_stack(folder: Path) -> Iterator[Stack]:
    """On free ports, in a home below `folder` whose name has every character that one may have; ended behind it."""
    home = Home(folder / nasty.NAME)
    try:
        yield up(home, customary_ports=False)
    finally:
        down(home)
