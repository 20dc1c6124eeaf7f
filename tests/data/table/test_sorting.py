"""Rows are sorted on the disk as they would be in memory, whatever their keys are, with a bounded number of them at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.data.table import sorting
from pangu.data.table.sorting import Parts, divided, part_count, sorted_by
from pangu.errors import UserError
from tests import subtests

FEW = 20
"""Rows of a part, here."""
KEYS = st.one_of(
    st.lists(st.integers(-(2**40), 2**40), max_size=300),
    st.lists(st.sampled_from(["", "a", "b", "é", "图", "a" * 70]), max_size=300),
    st.lists(st.binary(max_size=3), max_size=300),
)


@settings(max_examples=60, deadline=None)
@given(KEYS, st.integers(1, 40))
def test_rows_come_by_key_and_equal_ones_in_the_order_in_which_they_came(
    tmp_path_factory: pytest.TempPathFactory, keys: list, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("sorted")
    rows = pa.table({"key": pa.array(keys, None if keys else pa.string()), "place": np.arange(len(keys))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "PART_ROWS", FEW)
        found = list(sorted_by("key", (rows.slice(at, batch) for at in range(0, len(keys), batch)), folder))
    whole = pa.concat_tables(found).to_pylist() if found else []
    assert whole == sorted(rows.to_pylist(), key=lambda row: row["key"])
    assert not list(folder.iterdir()), "nothing is left on the disk"


def test_a_sort_holds_a_part_of_the_rows_and_no_key_fills_another_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "PART_ROWS", FEW)
    sizes, read = [], Parts.read
    monkeypatch.setattr(
        Parts, "read", lambda parts, number: sizes.append((found := read(parts, number)).num_rows) or found
    )
    random = np.random.default_rng(0).permutation(2000)

    def batches(keys: np.ndarray) -> Iterator[pa.Table]:
        return (pa.table({"key": keys[at : at + 50]}) for at in range(0, len(keys), 50))

    assert sum(table.num_rows for table in sorted_by("key", batches(random), tmp_path)) == 2000
    assert len(sizes) == part_count(2000) == 100 and max(sizes) <= FEW + 1
    sizes.clear()
    skewed = np.where(np.arange(2000) % 4 == 0, 7, random + 100)  # a quarter of all rows have one key
    whole = np.concatenate([table["key"].to_numpy() for table in sorted_by("key", batches(skewed), tmp_path)])
    assert (whole == np.sort(skewed)).all()
    assert max(sizes) <= 2 * FEW and sum(sizes) == 1500, (
        "rows of one key need no sorting, and are never whole in memory"
    )


def test_equal_values_lie_in_one_part_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "PART_ROWS", FEW)
    rows = pa.table({"value": np.arange(500) % 77})
    parts = divided(iter([rows]), lambda some, count: some["value"].to_numpy() * 31 % count, tmp_path)
    found = [set(parts.read(number)["value"].to_pylist()) for number in range(len(parts))]
    assert sum(map(len, found)) == len(set().union(*found)) == 77


@subtests.parametrize("when", ["at once", "in the middle"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, when: str) -> None:
    (tmp_path / when).mkdir()
    full = 0 if when == "at once" else 1
    (tmp_path / when / f"{full:04d}.arrows").symlink_to("/dev/full")
    rows = pa.table({"value": np.arange(100_000)})
    with pytest.raises(UserError, match=r"The disk of .* is full; make room and run the same command again"):
        parts = Parts(tmp_path / when, rows.schema, 2)
        parts.add(rows, np.arange(100_000) % (1 + full))
        parts.close()
