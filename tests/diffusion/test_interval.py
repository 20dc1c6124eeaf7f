"""The interval contract: what makes a pair, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import NoiseSchedule
from pangu.contract import GeneratorContract, check_pair
from pangu.diffusion.interval import TimeInterval, check_partition, interval_of
from pangu.errors import UserError
from tests import subtests

checks = subtests.Checks()


def contract(role: str, low: int, high: int, **changes: object) -> GeneratorContract:
    values: dict = {
        "role": role, "low": low, "high": high, "schedule": NoiseSchedule(), "autoencoder_hash": "a1",
        "text_encoder_hashes": ("t1",), "latent_scaling": 1.0, "spatial_factor": 8, "max_tokens": 32, "resolution": 96,
        "recipe": "demo", "recipe_digest": "r1",
    }  # fmt: skip
    return GeneratorContract(**(values | changes))


@checks
@given(boundary=st.integers(1, 999), t=st.integers(0, 999))
def every_timestep_has_exactly_one_expert(boundary: int, t: int) -> None:
    structure, texture = interval_of("structure", boundary, 1000), interval_of("texture", boundary, 1000)
    check_partition(structure, texture, 1000)
    assert (t in structure) != (t in texture)
    assert (t in structure) == (t >= boundary)


@checks
@given(low=st.integers(0, 998), width=st.integers(1, 500), high=st.integers(1, 999))
def only_partitions_are_accepted(low: int, width: int, high: int) -> None:
    structure, texture = TimeInterval(low, low + width), TimeInterval(0, high)
    covered = [t in structure for t in range(1000)], [t in texture for t in range(1000)]
    partition = all(a != b for a, b in zip(*covered, strict=True)) and low + width == 1000
    if partition:
        check_partition(structure, texture, 1000)
    else:
        with pytest.raises(UserError, match=re.escape(str(structure))):
            check_partition(structure, texture, 1000)


@checks
def a_timestep_outside_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"texture generator is trained for t in \[0, 500\), but was asked for t = 500"):
        TimeInterval(0, 500).check(500, "texture")


@subtests.parametrize(
    ("structure", "texture", "sentence"),
    [
        ((600, 1000), (0, 500), r"Gap.*\[600, 1000\).*\[0, 500\).*\[500, 600\)"),
        ((400, 1000), (0, 500), r"Overlap.*\[400, 1000\).*\[0, 500\).*\[400, 500\)"),
        ((500, 900), (0, 500), r"Gap.*\[500, 900\)"),
        ((500, 1000), (1, 500), r"Gap.*\[1, 500\)"),
    ],
)
def test_gaps_and_overlaps_name_both_sides(structure: tuple, texture: tuple, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_pair(contract("structure", *structure), contract("texture", *texture))


@subtests.parametrize(
    "change",
    [
        {"autoencoder_hash": "other"},
        {"latent_scaling": 0.5},
        {"latent_shift": 0.1},
        {"spatial_factor": 16},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_the_pair_must_share_is_checked(change: dict) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        check_pair(contract("structure", 500, 1000), contract("texture", 0, 500, **change))


@checks
def swapped_roles_are_refused() -> None:
    with pytest.raises(UserError, match=r"structure side .* role is 'texture'"):
        check_pair(contract("texture", 0, 500), contract("structure", 500, 1000))


@checks
def a_contract_survives_its_folder(tmp_path) -> None:
    original = contract("structure", 500, 1000, trained_steps=7)
    original.save(tmp_path)
    assert GeneratorContract.load(tmp_path) == original


@checks
def a_folder_without_contract_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"contract.json"):
        GeneratorContract.load(tmp_path)


test_interval = checks.test()
