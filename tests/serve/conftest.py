"""A served pair on the real stack: two tiny pairs registered, one of them deployed by the command that users run."""

from collections.abc import Iterator

import pytest

from pangu.recipes import tiny
from pangu.stack import Stack
from pangu.storage import Home, write_json
from tests.serve.served_pair import Served, run_deploy, write_pair


@pytest.fixture(scope="session")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`champion` is served; another version, which differs only in its weights, is registered."""
    from pangu.registry import release

    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment().items():
            patch.setenv(name, value)
        versions = []
        for seed in (2, 1):
            folders = write_pair(folder / f"pair-{seed}", tiny(), seed)
            evaluation = {
                "pair_id": str(seed),
                "pair": str(folders[0]),
                "metrics": {},
                "protocol": "none",
                "protocol_hash": "0",
            }
            versions.append(release(*folders, evaluation).pair_version)
        write_json(folder / "settings.json", {"max_in_flight": 3})
        outcome = run_deploy("champion", "--settings", str(folder / "settings.json"))
        assert outcome["pair_version"] == versions[1]
        application = Served(outcome["url"], first=versions[1], second=versions[0], home=Home(stack.home), stack=stack)
        yield application
        application.dashboard("DELETE")
