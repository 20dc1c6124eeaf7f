"""A served pair on the real stack: two tiny pairs registered, one of them deployed by the command that users run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pangu.recipes import tiny
from pangu.stack import Stack
from pangu.storage import Home, write_json
from tests.pipelines.coop import small
from tests.serve.local import LocalServer, serving
from tests.serve.served_pair import Served, run_deploy, write_pair

STYLES = {"photo": "a photo of", "cartoon": "cartoon style,"}


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
        partner = folder / "partner"
        small.stable_diffusion(seed=3).save_pretrained(partner)
        declared = {"partners": {"style": {"source": str(partner)}}}
        write_json(folder / "settings.json", {"max_in_flight": 3, "structure": {"replicas": 2}, "coop": declared})
        outcome = run_deploy("champion", "--settings", str(folder / "settings.json"))
        assert outcome["pair_version"] == versions[1]
        application = Served(outcome["url"], first=versions[1], second=versions[0], home=Home(stack.home), stack=stack)
        yield application
        application.dashboard("DELETE")


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny pair that knows two styles."""
    return write_pair(tmp_path_factory.mktemp("pair"), tiny().model_copy(update={"styles": STYLES}), seed=0)[0]


@pytest.fixture(scope="session")
def local(pair_folder: Path) -> Iterator[LocalServer]:
    with serving(pair_folder, max_in_flight=8) as server:
        yield server
