"""Whatever a folder or an archive holds, each of its files becomes a row, or is the caption of one."""

import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pangu.data.card import Card
from pangu.data.images import SUFFIXES
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.file_names import captions_beside, is_image, other_file
from pangu.data.ingest.local_sources import LocalImages, local_images
from pangu.data.ingest.stage import check_source, ingest
from pangu.data.table import sorting
from pangu.errors import UserError
from pangu.storage import Home
from tests.data.ingest.test_local_sources import card

STEMS = st.text(st.sampled_from("aB7. _#é狐%'\\"), min_size=1, max_size=6)
ENDINGS = [".png", ".PNG", ".jpg", ".JpEg", ".avif", ".tif", ".jfif", ".txt", ".TXT", ".json", ".psd", ".heic", ""]
NAMES = st.builds(
    lambda folder, stem, more, ending: f"{folder}{stem}{more}{ending}",
    st.sampled_from(["", "folder/", "folder.v2/deep/", "folder 照片.png/"]),
    STEMS,
    st.sampled_from(["", "", ".05", ".seg"]),
    st.sampled_from(ENDINGS),
).filter(lambda name: name.rpartition("/")[2] not in (".", "..") and not name.startswith("metadata."))
FILES = st.lists(NAMES, unique=True, max_size=16)


def content(name: str) -> bytes:
    """Bytes that no other file has."""
    return json.dumps({"txt": f"says {name}"}).encode() if name.lower().endswith(".json") else f"says {name}".encode()


def captioned(source: Path | str, **changes: object) -> Card:
    return card(source, columns={"caption_en": "txt"}, **changes)


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture(scope="module", autouse=True)
def few_rows_a_part() -> Iterator[None]:
    """Files are divided among many parts, as those of a large source are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "PART_ROWS", 3)
        yield


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def seen(local: LocalImages) -> tuple[dict[bytes, str], Counter[str]]:
    """What a source gives: the caption of each image's bytes; how many files are none, by reason."""
    captions, reasons = dict[bytes, str](), Counter[str]()
    read = list(local.read())
    assert len(read) == local.table.num_rows
    for row, ((data, why), caption) in enumerate(zip(read, local.table["txt"].to_pylist(), strict=True)):
        assert (data is None) == bool(why) and local.refused.get(row, "") == why
        if data is None:
            reasons[why] += 1
        else:
            assert data not in captions
            captions[data] = caption
    return captions, reasons


@settings(max_examples=60)
@given(FILES, st.randoms())
def test_every_file_is_an_image_with_its_caption_or_counted_in_any_order(names: list[str], random: object) -> None:
    names = [*names, "one.png", "one.txt"]
    random.shuffle(names)  # type: ignore[attr-defined]
    files = {name: content(name) for name in names}
    with tempfile.TemporaryDirectory() as root:
        home = Home(Path(root))
        in_folder = local_images(captioned(write_folder(Path(root, "files"), files)), home)
        in_archive = local_images(captioned(write_archive(Path(root, "files.tar"), files)), home)
        assert in_folder is not None and in_archive is not None
        captions, reasons = seen(in_folder)
        assert (captions, reasons) == seen(in_archive)
    assert set(captions) == {files[name] for name in names if is_image(name)}
    used = {caption for own in captions_beside(names).values() for caption in own}
    assert len(captions) + reasons.total() + len(used) == len(names)
    for name in filter(is_image, names):
        own = f"{name[: name.rindex('.')]}.txt"
        if own in names and f"{name}.txt" not in names and f"{own[:-4]}.json" not in names:
            assert captions[files[name]] in (f"says {own}", json.loads(content(f"{name}.json"))["txt"])


def test_captions_are_found_by_the_last_dot_before_the_first() -> None:
    for names, image, expected in (
        (["22.05.png", "22.05.txt", "22.txt"], "22.05.png", ["22.05.txt"]),
        (["22.05.png", "22.txt"], "22.05.png", ["22.txt"]),
        (["22.05.png", "22.png", "22.txt"], "22.05.png", []),
        (["22.05.png", "22.png", "22.txt"], "22.png", ["22.txt"]),
        (["0.seg.png", "0.jpg", "0.json"], "0.seg.png", []),
        (["0.seg.png", "0.rgb.png", "0.json"], "0.rgb.png", ["0.json"]),
        (["a.jpg", "a.png", "a.txt", "a.json"], "a.png", ["a.txt", "a.json"]),
        (["a.jpg", "a.png", "a.png.txt", "a.txt"], "a.png", ["a.png.txt"]),
        (["A.PNG", "A.TXT", "A.Json"], "A.PNG", ["A.TXT", "A.Json"]),
        (["x/a.png", "y/a.txt", "a.txt"], "x/a.png", []),
        (["x.y/a.png", "x.txt", "x.y/a.txt"], "x.y/a.png", ["x.y/a.txt"]),
        (["cafe\u0301.png", "caf\u00e9.txt"], "cafe\u0301.png", ["caf\u00e9.txt"]),
        ([".png.png", ".png.txt", ".txt"], ".png.png", [".png.txt"]),
    ):
        for order in (names, names[::-1]):
            assert captions_beside(order)[image] == expected, (image, order)
    assert [other_file(name) for name in ("a.7Z", "b", "c.22", "d.a b", "e.tar.gz")] == [
        "not_an_image_file .7z", "not_an_image_file", "not_an_image_file", "not_an_image_file", "not_an_image_file .gz",
    ]  # fmt: skip


def test_formats_and_endings_of_every_kind_end_as_ok_and_the_counts_add_up(tmp_path: Path) -> None:
    kinds = {
        ".avif": "AVIF",
        ".TIF": "TIFF",
        ".jfif": "JPEG",
        ".jp2": "JPEG2000",
        ".WebP": "WEBP",
        ".ppm": "PPM",
        ".05.png": "PNG",
    }
    files = dict[str, bytes]()
    for number, (suffix, kind) in enumerate(kinds.items()):
        buffer = io.BytesIO()
        Image.new("RGB", (40 + number, 40), "red").save(buffer, kind)
        files |= {f"{number}{suffix}": buffer.getvalue(), f"{number}.TXT": b"red"}
    files |= {"lie.png": b"no image", "layers.psd": b"8BPS", "notes.txt": b"?", "LICENSE": b"free", "b.heic": b"ftyp"}
    failed = {
        "not_an_image": 1,
        "not_an_image_file": 1,
        "not_an_image_file .heic": 1,
        "not_an_image_file .psd": 1,
        "not_an_image_file .txt": 1,
    }
    home = Home(tmp_path / "home")
    for source in (write_folder(tmp_path / "folder", files), write_archive(tmp_path / "files.TAR", files)):
        mine = captioned(source)
        done = ingest(mine, home)
        assert (done.listed, done.ok, done.failed) == (len(kinds) + 5, len(kinds), failed)
        rows = pq.read_table(home.raw("local", done.ingest_id) / "rows.parquet").to_pylist()
        assert {row["caption_en"] for row in rows if not row["reason"]} == {"red"}
        refused = check_source(mine, read_source(mine, home), home)
        assert Counter(refused.values()) == Counter(failed) - Counter(["not_an_image"])


def test_what_is_no_plain_file_costs_itself_only(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path / "folder", {"a.png": b"a", "a.txt": b"says a", "in/b.png": b"b", "big.png": b"1" * 99}
    )
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.txt")
    (root / "broken.png").symlink_to(root / "gone.png")
    (root / "broken.txt").symlink_to(root / "gone.txt")
    (root / "round").symlink_to(root)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.png").write_bytes(b"c")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    local = local_images(captioned(root, limits={"max_bytes": 98}), Home(tmp_path))
    assert local is not None
    names = [url.rpartition("/folder/")[2] for url in local.table["url"].to_pylist()]
    assert dict(zip(names, local.read(), strict=True)) == {
        "a.png": (b"a", ""),
        "in/b.png": (b"b", ""),
        "linked/c.png": (b"c", ""),
        "big.png": (None, "too_many_bytes: more than 98"),
        "pipe.png": (None, "unreadable_file: neither a file nor a folder"),
        "pipe.txt": (None, "not_an_image_file .txt"),
        "broken.png": (None, "unreadable_file: gone, or a link to nothing"),
        "broken.txt": (None, "not_an_image_file .txt"),
    }
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for name in ("folder/a.png", "folder/a.txt", "folder/broken.png", "folder/in"):
            archive.add(tmp_path / name, name)
    local = local_images(captioned(tmp_path / "links.tar"), Home(tmp_path))
    assert local is not None
    assert list(local.read()) == [(b"a", ""), (None, "unreadable_file: a link or a device"), (b"b", "")]


def test_metadata_speaks_of_each_file_as_often_as_it_names_it(tmp_path: Path) -> None:
    files = {"a.png": b"a", "b\\c.png": b"b", "sub/cafe\u0301.PNG": b"c", "x.png": b"x", "x.json": b"[" * 100_000}
    rows = [
        ("b\\c.png", "slanted"),
        ("a.png", "one"),
        ("./a.png", "two"),
        ("sub\\caf\u00e9.PNG", "accents"),
        ("gone.png", "lost"),
    ]
    lines = "\n".join(json.dumps({"file_name": name, "txt": text}) for name, text in rows)
    root = write_folder(tmp_path / "folder", files | {"Metadata.jsonl": lines.encode()})
    local = local_images(captioned(root), Home(tmp_path))
    assert local is not None
    assert list(zip(local.table["txt"].to_pylist(), local.read(), strict=True)) == [
        ("one", (b"a", "")),
        ("two", (b"a", "")),
        ("slanted", (b"b", "")),
        ("accents", (b"c", "")),
        (None, (b"x", "")),
        ("lost", (None, "missing_file")),
    ]


def test_a_source_without_any_image_says_which_it_knows(tmp_path: Path) -> None:
    for source in (
        write_folder(tmp_path / "folder", {"a.psd": b"8BPS", "a.txt": b"a"}),
        write_archive(tmp_path / "files.tar", {"a.psd": b"8BPS", "a.txt": b"a"}),
    ):
        with pytest.raises(UserError, match=f"{source.name} of card 'local' holds no image .*{SUFFIXES[0]}"):
            ingest(captioned(source), Home(tmp_path / "home"))
