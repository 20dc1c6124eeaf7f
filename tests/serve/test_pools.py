"""The tests of the served pair where each part of it is a pool of replicas, as large pairs are served.

Adapters of single requests and the deadline have their tests on a server in one process; here they are run on this one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pangu.recipes import tiny
from pangu.stack import Stack
from pangu.storage import read_json, write_json
from tests.pipelines.coop import small
from tests.serve.api.test_image_routes import keeps_its_deadline
from tests.serve.api.test_request_loras import (  # noqa: F401
    declared,
    files,
    pipeline,
    test_a_request_is_drawn_as_the_pipeline_draws_with_its_adapters,
    test_adapters_of_different_requests_share_calls_and_draw_as_alone_with_few_in_memory,
    test_the_models_list_names_them,
    test_what_can_not_act_is_refused_in_one_sentence,
)
from tests.serve.served_pair import Served, run_deploy, served_as, write_pair
from tests.serve.test_served import *  # noqa: F403
from tests.serve.test_served import file_of, last_file_of

pytestmark = [pytest.mark.long, pytest.mark.slow]


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the version that is served first."""
    return write_pair(tmp_path_factory.mktemp("pair"), tiny(), seed=1)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def served(stack: Stack, folder: Path, files: dict[str, Path]) -> Iterator[Served]:  # noqa: F811
    small.stable_diffusion(seed=3).save_pretrained(folder / "partner")
    partners = {"partners": {"style": {"source": str(folder / "partner")}}}
    settings = {"layout": "pools", "coop": partners, **declared(files)}
    with served_as(stack, folder, settings, mortal="texture", replicas=6) as application:
        yield application


@pytest.fixture(scope="module")
def server(served: Served) -> Served:
    return served


def test_a_partner_in_a_process_of_its_own_draws_along(served: Served) -> None:
    asked: dict[str, Any] = {"seed": 1, "num_inference_steps": 4, "coop": {"partners": ["style"]}}
    answer = served.draw(**asked)
    assert answer.json()["partners"] == ["style"]
    streamed = served.draw(**asked, stream=True, partial_images=1)
    assert streamed.text.count("event: image_generation.partial_image") == 1
    assert last_file_of(streamed) == file_of(answer)
    assert served.draw(coop={"partners": ["/etc"]}).json()["error"]["param"] == "coop.partners"


def test_a_deadline_is_kept_and_the_work_behind_it_stops_in_the_replica(served: Served, folder: Path) -> None:
    """Settings that change start new replicas, so this one is the last."""
    hasty = folder / "hasty.json"
    write_json(hasty, read_json(folder / "settings.json") | {"timeout_s": 1.0})
    run_deploy("champion", "--settings", str(hasty))
    keeps_its_deadline(served, n=4)
