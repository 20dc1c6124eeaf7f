"""Ranges of files that are fetched ahead: the right bytes, once, before they are asked for, in bounded memory."""

import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.data.rows.image_places import PlacedGroups
from pangu.data.rows.read_ahead import ByteRange, ReadAhead
from pangu.errors import UserError


@given(data=st.data(), most=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_what_is_expected_is_fetched_once_and_before_it_is_asked_for(tmp_path_factory, data, most: int) -> None:
    folder = tmp_path_factory.mktemp("files")
    contents = [os.urandom(300), os.urandom(120)]
    for number, content in enumerate(contents):
        (folder / f"{number}").write_bytes(content)
    ahead = ReadAhead([str(folder / "0"), str(folder / "1")], most)
    fetched: list[ByteRange] = []
    fetch, lock = ahead._fetch, threading.Lock()

    def noted(one: ByteRange) -> bytes:
        with lock:
            fetched.append(one)
        return fetch(one)

    ahead._fetch = noted  # type: ignore[method-assign]
    one = st.tuples(st.integers(0, 1), st.integers(0, 100), st.integers(0, 120)).map(
        lambda of: ByteRange(of[0], min(of[1:]), max(of[1:]))
    )
    ranges = data.draw(st.lists(one, unique=True, min_size=1, max_size=12))
    ahead.expect(ranges)
    waiting = dict(ahead._coming)
    assert sum(each.end - each.start for each in waiting) == most - ahead._room <= most
    for coming in waiting.values():
        coming.result()
    assert sorted(fetched) == sorted(waiting), "nothing waits for being asked for"
    assert len(waiting) == len(ranges) or sum(each.end - each.start for each in ranges) > most
    for each in data.draw(st.permutations(ranges)):
        assert ahead.read(each) == contents[each.file][each.start : each.end]
    assert sorted(fetched) == sorted(ranges) and ahead._room == most and not ahead._coming


def test_images_are_found_where_they_lie_in_a_row_group_and_compressed_ones_are_refused(tmp_path: Path) -> None:
    images = [b"", b"a", b"a", os.urandom(5000), b"\x01\x00\x00\x00a" * 20, os.urandom(300_000)] * 3
    table = pa.table({"key": [str(number) for number in range(18)], "image": images})
    path = tmp_path / "plain.parquet"
    pq.write_table(table, path, row_group_size=5, compression="none", use_dictionary=["key"])
    with pyarrow.fs.LocalFileSystem().open_input_file(str(path)) as file:
        source, found = PlacedGroups(file, "it"), list[bytes]()
        for group in range(source.parquet.num_row_groups):
            found += [file.read_at(end - start, start) for start, end in zip(*source.starts(group), strict=True)]
    assert found == images
    pq.write_table(table, path, compression="zstd")
    compressed = PlacedGroups(pyarrow.fs.LocalFileSystem().open_input_file(str(path)), "it")
    with pytest.raises(UserError, match=r"images in it are not stored as they are.* set PANGU_CACHE"):
        compressed.starts(0)
