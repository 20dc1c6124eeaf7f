"""A served pair on the real stack: two tiny pairs registered, one of them deployed by the command that users run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pangu.recipes import tiny
from pangu.stack import Stack
from tests.serve.local import LocalServer, serving
from tests.serve.served_pair import Served, served_as, write_pair

STYLES = {"photo": "a photo of", "cartoon": "cartoon style,"}


@pytest.fixture(scope="session")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`champion` is served in two replicas that hold all of it, as small pairs are; another version, which differs only in its
    weights, is registered."""
    folder = tmp_path_factory.mktemp("serving")
    with served_as(stack, folder, {"layout": "pair"}, mortal="pair", replicas=3) as application:
        yield application


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny pair that knows two styles."""
    return write_pair(tmp_path_factory.mktemp("pair"), tiny().model_copy(update={"styles": STYLES}), seed=0)[0]


@pytest.fixture(scope="session")
def local(pair_folder: Path) -> Iterator[LocalServer]:
    with serving(pair_folder, max_in_flight=8) as server:
        yield server
