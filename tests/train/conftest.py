"""What the tests of training share."""

import pytest

from pangu.storage import Home
from tests.small_dataset import small_dataset


@pytest.fixture(scope="module")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the small dataset, for the tests of one file."""
    home = Home(tmp_path_factory.mktemp("home"))
    small_dataset(home)
    return home
