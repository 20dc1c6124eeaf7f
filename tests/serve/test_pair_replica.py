"""The tests of the served pair where all of it lies in one replica, of which there are two, and not in pools."""

from collections.abc import Iterator

import pytest

from pangu.stack import Stack
from tests.serve.served_pair import Served, served_as
from tests.serve.test_served import *  # noqa: F403

pytestmark = [pytest.mark.long, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    with served_as(stack, folder, {"layout": "pair"}, mortal="pair", replicas=4) as application:
        yield application
