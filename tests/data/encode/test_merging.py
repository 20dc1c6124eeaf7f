"""Large encoded files: the rows of the parts in their order, wherever a run was stopped, and nothing done twice."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.data.encode import merging
from pangu.data.encode.chunks import LargeFiles
from pangu.data.encode.encoded import MERGED, parts_in


@dataclass
class Part:
    """What joining asks of a chunk."""

    paths: dict[str, Path]
    merged: frozenset[str] = frozenset()


def stem(number: int) -> str:
    """Of files of seven parts."""
    return f"{number // 7:05d}-0000-{number % 7:04d}"


def parts_of(places: list[Path], count: int) -> Iterator[Part]:
    """As `chunks_of` yields chunks: those of one partition, each of them under two views."""
    large = {str(place): LargeFiles(place / MERGED) for place in places}
    for number in range(count):
        merged = frozenset(name for name, files in large.items() if files.hold(stem(number)))
        yield Part({str(place): place / f"part-{stem(number)}.parquet" for place in places}, merged)


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def join_all(folder: Path, count: int) -> None:
    for group in merging.groups_to_join(parts_of([folder / "a", folder / "b"], count)):  # type: ignore[arg-type]
        merging.join(group)


def ordered(place: Path) -> list[Path]:
    return sorted([*place.glob("part-*.parquet"), *(place / MERGED).glob("part-*.parquet")], key=parts_in)


class Stopped(BaseException):
    """As a kill: what would tidy up afterwards is stopped, too."""


def changes(patch: pytest.MonkeyPatch, most: int) -> list[str]:
    """The changes of names that happen from now on; after so many nothing happens any more."""
    told: list[str] = []

    def watched(name: str, change):  # type: ignore[no-untyped-def]
        def changed(self: Path, *args: object, **options: object) -> object:
            if len(told) >= most:
                raise Stopped
            told.append(name)
            return change(self, *args, **options)

        return changed

    for name in ("replace", "unlink"):
        patch.setattr(Path, name, watched(name, getattr(Path, name)))
    return told


def test_stopped_before_any_change_of_a_name_it_loses_no_row_and_doubles_none(monkeypatch, tmp_path: Path) -> None:
    folder, count = tmp_path / "now", 9
    tables = [pa.table({"key": [f"{number:03d}"], "latents": [bytes([number]) * 500]}) for number in range(count)]
    for place in (tmp_path / "parts" / "a", tmp_path / "parts" / "b"):
        place.mkdir(parents=True)
        for number, table in enumerate(tables):
            pq.write_table(table, place / f"part-{stem(number)}.parquet", compression="none")
    size = (place / f"part-{stem(0)}.parquet").stat().st_size
    monkeypatch.setattr(
        merging, "FILE_BYTES", int(3.5 * size)
    )  # nine parts: a file of four, and one that takes the rest
    shutil.copytree(tmp_path / "parts", folder)
    join_all(folder, count)
    whole = content(folder)
    files = ordered(folder / "a")
    assert [parts_in(file) for file in files] == [((0, 0, 0), (0, 0, 3)), ((0, 0, 4), (1, 0, 1))]
    groups = [source.read_row_group(n) for source in map(pq.ParquetFile, files) for n in range(source.num_row_groups)]
    assert groups == tables, "a row group a part, in their order"
    for number in range(1000):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "parts", folder)
        with monkeypatch.context() as patch:
            told = changes(patch, number)
            with contextlib.suppress(Stopped):
                join_all(folder, count)
                break
        for place in (folder / "a", folder / "b"):
            keys = {key for file in ordered(place) for key in pq.read_table(file)["key"].to_pylist()}
            assert len(keys) == count, "no row is ever gone"
        join_all(folder, count)
        assert content(folder) == whole, f"stopped before change {number}"
    assert (told.count("replace"), told.count("unlink"), number) == (4, 18, 22)
    join_all(folder, count)
    assert content(folder) == whole


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=30), done=st.sets(st.integers(0, 9)))
@settings(max_examples=30, deadline=None)
def test_groups_follow_from_sizes_alone_whichever_of_them_are_joined_already(tmp_path_factory, sizes, done) -> None:
    """And all files are large, but for that of a partition that is not."""
    place = tmp_path_factory.mktemp("parts")
    files = [place / f"part-{stem(number)}.parquet" for number in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(bytes(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "FILE_BYTES", 128)
        groups = list(merging.groups_to_join(Part({"view": file}) for file in files))  # type: ignore[misc]
        together = [file for group in groups for file in group]
        assert together == [file for file in files if file in together]
        assert all(file.stat().st_size >= 128 for file in files if file not in together) or len(files) == 1
        assert all(sum(file.stat().st_size for file in group) >= 128 or group == files for group in groups)
        joined = {file for number in done for group in groups[number : number + 1] for file in group}
        again = [Part({"view": file}, frozenset({"view"} if file in joined else ())) for file in files]
        left = list(merging.groups_to_join(again))  # type: ignore[arg-type]
        assert left == [group for group in groups if group[0] not in joined]
