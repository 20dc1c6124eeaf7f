"""Whatever a folder or a table holds, each of its rows is counted as ingest and prepare will count it, and the card is read."""

import gzip
import json
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pangu.data.card import load_card
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.raw import RawFolder
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.row_plan import plan_rows
from pangu.data.prepare.stage import prepare
from pangu.data.propose.card_text import scalar
from pangu.data.propose.stage import NewCard, propose
from pangu.errors import UserError
from pangu.recipes import recipe
from pangu.storage import Home
from tests.data.ingest.test_image_files import NAMES
from tests.data.propose.made_pictures import drawing, new_card, pictures, say


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A working folder, and a home in it."""
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "var")


def accounted(made: NewCard) -> None:
    assert made.listed == made.ok + sum(made.failed.values())
    assert made.ok == made.large + made.enlarged + made.unmeasured


def refusal(place: Path, home: Home, name: str | None = None, **options: object) -> str:
    with pytest.raises(UserError) as error:
        propose(place, name, home, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_proposed_card_goes_through_ingest_and_prepare_with_the_counts_that_were_said(here: Home) -> None:
    folder = pictures(Path("my pictures"), 6)
    for number in (6, 7, 8):
        (folder / f"{number}.png").write_bytes(drawing(number, 40))
        (folder / f"{number}.txt").write_text("蓝色的点" if number == 8 else say(number), encoding="utf-8")
    (folder / "again.png").write_bytes(drawing(1))
    (folder / "again.txt").write_text("twice")
    (folder / "mute.png").write_bytes(drawing(20))
    (folder / "tiny.png").write_bytes(drawing(21, 12))
    (folder / "tiny.txt").write_text("tiny")
    (folder / "torn.png").write_bytes(drawing(22)[:150])
    (folder / "torn.txt").write_text("torn")
    (folder / "layers.psd").write_bytes(b"8BPS")
    made = new_card(folder, here)
    accounted(made)
    assert made.dataset == "my-pictures" and made.captions == {"en": 8, "zh": 1} and made.start == "embedded"
    card = load_card(made.dataset)
    ingested = ingest(card, here)
    prepared = prepare(card, ingested.ingest_id, here)
    assert made.listed == ingested.listed
    assert Counter(made.failed) == Counter(ingested.failed) + Counter(prepared.dropped)
    assert (made.ok, made.large, made.enlarged) == (prepared.rows, prepared.originals, prepared.upscaled) == (9, 6, 3)
    own = recipe(made.recipe)
    assert (own.structure.batch_size, own.texture.batch_size) == (9, 6), "no batch is larger than the rows of its job"
    with Image.open(made.sheet) as sheet:
        assert sheet.width > 5 * 192 and made.sheet.startswith(str(here.root))


def test_a_word_that_all_captions_of_a_few_pictures_share_gets_a_token_of_its_own_and_the_user_is_told(
    here: Home,
) -> None:
    folder = pictures(Path("creature"), 12, caption=lambda number: f"the Zimble {number}")
    found = propose(folder, None, here)
    assert found.start.recipe.placeholder_tokens == ("Zimble",)
    assert (
        sum("All captions say Zimble, most likely the name of what they show" in line for line in found.sentences) == 1
    )
    assert recipe(new_card(folder, here).recipe).placeholder_tokens == ("Zimble",)
    look = propose(pictures(Path("look"), 12), None, here)  # "a spot of colour ...": no word, but several
    many = propose(pictures(Path("many"), 41, caption=lambda number: f"zimble {number}"), None, here)
    for other in (look, many):
        assert other.start.recipe.placeholder_tokens == () and not any(
            "All captions say" in line for line in other.sentences
        )


CONTENT = st.sampled_from(["drawing", "same", "small", "torn", "empty", "text"])


@settings(max_examples=25)
@given(st.lists(st.tuples(NAMES, CONTENT), unique_by=lambda one: one[0], max_size=14))
def test_of_any_folder_every_file_is_counted_as_ingest_counts_it(files: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder, home = pictures(Path(root, "odd"), 9), Home(Path(root, "var"))
        for number, (name, kind) in enumerate(files, 30):
            data = {"drawing": drawing(number), "same": drawing(2), "small": drawing(number, 30), "empty": b""}
            data |= {"torn": drawing(number)[:200], "text": b'{"txt": "a text"}'}
            path = folder / "more" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[kind])
        proposal = propose(folder, "odd", home)
        read, on_disk = proposal.survey, [path for path in folder.rglob("*") if path.is_file()]
        assert read.listed == len(read.rows) + read.failed.total()
        source = str(Path(proposal.found.source))
        card = Path(root, "odd.yaml")
        card.write_text(
            f"name: odd\nsource: {scalar(source)}\ncolumns: {scalar(dict(proposal.found.columns))}\nlicence: {{name: x}}\n"
        )
        done = ingest(load_card(card), home)
        assert done.listed == read.listed <= len(on_disk)
        later = ("missing_caption", "duplicate", "undecodable", "unknown_range")
        assert done.failed.items() <= dict(read.failed).items()
        assert done.ok == len(read.rows) + sum(read.failed[reason] for reason in later)
        planned = plan_rows(RawFolder(home.raw("odd", done.ingest_id)).rows, home.root / "plan.parquet")
        assert {reason: read.failed[reason] for reason in later[:2]} == {one: planned.dropped[one] for one in later[:2]}


def write_tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    return path


def test_layouts_of_other_platforms_are_found_and_read(here: Home, tmp_path: Path) -> None:
    rows = [{"file_name": f"{number}.png", "text": say(number)} for number in range(10)]
    hub = pictures(tmp_path / "hub/train", caption=None).parent  # metadata.jsonl beside the pictures of each split
    (hub / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))

    table = pictures(tmp_path / "table/images", caption=None).parent
    (table / "labels.csv").write_text("filename;what it shows\n" + "\n".join(f"{n}.png;{say(n)}" for n in range(10)))

    coco = pictures(tmp_path / "coco/val2017", caption=None).parent
    images = [{"id": n, "file_name": f"{n}.png", "license": 1} for n in range(10)]
    captions = [{"image_id": n % 10, "caption": f"{say(n)}"} for n in range(20)]
    (coco / "annotations").mkdir()
    listed = {"images": images, "annotations": captions, "licenses": [{"id": 1, "name": "CC BY 2.0"}]}
    (coco / "annotations/captions_val2017.json").write_text(json.dumps(listed))

    feature = [{"image": {"bytes": drawing(n), "path": f"{n}.png"}, "caption": [say(n), "一个点"]} for n in range(10)]
    (tmp_path / "feature/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(feature), tmp_path / "feature/data/train-0.parquet")

    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/00000.tar", pictures(tmp_path / "loose"))
    (tmp_path / "shards/00000_stats.json").write_text("{}")

    for place, captions_en, captions_zh in (
        (hub, 10, 0), (hub / "train/metadata.jsonl", 10, 0), (table, 10, 0), (table / "labels.csv", 10, 0), (coco, 10, 0),
        (coco / "annotations/captions_val2017.json", 10, 0), (tmp_path / "feature", 10, 10), (tmp_path / "shards", 10, 0),
        (tmp_path / "shards/00000.tar", 10, 0),
    ):  # fmt: skip
        made = new_card(place, here, f"c{len(list(Path('datasets').glob('*.yaml')))}")
        accounted(made)
        assert (made.ok, made.captions) == (10, {"en": captions_en, "zh": captions_zh}), place
        card = load_card(made.dataset)
        again = read_source(card, here)
        assert again.num_rows == made.listed
        if place == coco:
            assert again["license"].to_pylist() == ["CC BY 2.0"] * 10
            assert again["more_captions_en"].to_pylist() == [[say(n + 10)] for n in range(10)]
        if place == tmp_path / "feature":
            assert again["caption_zh"].to_pylist() == ["一个点"] * 10, "each caption of a list goes to its own language"


def test_files_that_the_source_does_not_name_are_named(here: Home, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/0.tar", pictures(tmp_path / "loose"))
    (tmp_path / "shards/0_stats.json").write_text("{}")
    proposal = propose(tmp_path / "shards", None, here)
    assert proposal.found.passed_over == {".json": 1} and any("1 .json" in said for said in proposal.sentences)


@pytest.mark.long
def test_rows_of_a_table_of_urls_are_counted_with_the_sizes_that_it_says(here: Home) -> None:
    rows = ["URL\tTEXT\tWIDTH\tHEIGHT\tsimilarity"]
    rows += [f"http://127.0.0.1:9/{n}.png\t{say(n)}\t{40 + n}\t{60 + n}\t0.3" for n in range(30)]
    rows += ["ftp://example.org/a.png\tan address\t90\t90\t0.3", "http://127.0.0.1:9/x.png\t\t90\t90\t0.3"]
    Path("laion.tsv").write_text("\n".join(rows))
    Path("laion.tsv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    assert "limits.allow_private_hosts" in refusal(Path("laion.tsv"), here), (
        "loopback is refused, unless the card allows it"
    )
    allowed = Path("laion.tsv").read_text().replace("127.0.0.1:9", "nowhere.invalid")
    for path, data in ((Path("laion.tsv"), allowed.encode()), (Path("laion.tsv.gz"), gzip.compress(allowed.encode()))):
        path.write_bytes(data)
        made = new_card(path, here, path.name.replace(".", "-"))
        accounted(made)
        assert made.failed == {"missing_caption": 1, "refused_scheme": 1} and not made.sheet
        assert (made.large, made.enlarged) == (6, 24)
        assert any("similarity" in said for said in made.warnings) and any(
            "unresolved_host" in said for said in made.warnings
        )


def test_what_cannot_be_used_is_refused_in_one_sentence_that_names_the_remedy(here: Home, tmp_path: Path) -> None:
    mute = pictures(tmp_path / "mute", caption=None)
    said = refusal(mute, here)
    assert all(way in said for way in ("10 pictures and no caption", "PICTURE.txt", "metadata.csv", "--captioner"))
    assert "10 pictures and no caption" in refusal(write_tar(tmp_path / "mute.tar", mute), here)
    assert "only 3 pictures that can be trained on, of 3 rows" in refusal(pictures(tmp_path / "three", 3), here)
    tiny = refusal(pictures(tmp_path / "tiny", side=20), here)
    assert "All 10 pictures" in tiny and "20 px" in tiny and "64 px" in tiny
    (tmp_path / "bare").mkdir()
    assert "is empty" in refusal(tmp_path / "bare", here)
    (tmp_path / "bare/a.psd").write_bytes(b"8BPS")
    assert "1 .psd" in refusal(tmp_path / "bare", here)
    assert "There is no folder or table" in refusal(tmp_path / "nowhere", here)
    assert f"name the folder that it lies in, {tmp_path / 'three'}" in refusal(tmp_path / "three/0.png", here)
    for name, text, expected in (
        ("rows.csv", "", "has no rows"),
        ("torn.csv", 'url,caption\n"http://a/1', "broken record"),
        ("torn.parquet", "PAR1", "cannot be read as .parquet"),
        ("lines.jsonl", "no json\n", "holds no JSON in line 1"),
        ("plain.csv", "key,caption\n1,a red fox\n2,an owl\n", "names no picture"),
        ("mute.csv", "url,key\nhttp://a.org/1,7\nhttp://a.org/2,8\n", "no column of captions among url, key"),
        ("other.json", "[]", "no list of captions as COCO has it"),
        ("sheet.xlsx", "PK", "save the sheet as .csv"),
        ("all.zip", "PK", "unpack the archive"),
        ("torn.tar", "no archive", "cannot be read as a tar archive"),
    ):
        (tmp_path / name).write_text(text)
        assert expected in refusal(tmp_path / name, here, "t"), name
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/data-00000.arrow").write_bytes(b"ARROW1")
    assert "to_parquet" in refusal(tmp_path / "hub", here)
    assert not Path("datasets").exists(), "nothing was written"


def test_mixed_and_foreign_languages_are_said(here: Home, tmp_path: Path) -> None:
    mixed = pictures(tmp_path / "mixed", caption=lambda n: "红色的点" if n % 2 else say(n))
    proposal = propose(mixed, None, here)
    assert dict(proposal.found.columns) == {"caption": "txt"} and dict(proposal.sizes.captions) == {"en": 5, "zh": 5}
    assert any("10 pictures have a caption in one language only" in said for said in proposal.warnings)
    german = pictures(
        tmp_path / "german", caption=lambda n: f"Ein roter Fuchs läuft im Winter durch den verschneiten Wald {n}"
    )
    assert any("10 of 10 captions" in said for said in propose(german, None, here).warnings)


def test_a_model_may_write_the_captions(here: Home, tmp_path: Path) -> None:
    made = new_card(pictures(tmp_path / "mute", caption=None), here, captioner="a/captioner")
    card = load_card("mute")
    assert made.ok == 10 and card.describes
    assert ingest(card, here).ok == 10, "no file says a word, and none has to"


def test_a_name_that_is_taken_or_none_is_refused(here: Home, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "fox")
    new_card(folder, here)
    assert "There is a card datasets/fox.yaml already" in refusal(folder, here) and "--force" in refusal(folder, here)
    assert "There is a card" in refusal(folder, here, "openmoji"), (
        "cards beside the package are found by their names, too"
    )
    (here.dataset("made") / "raw").mkdir(parents=True)
    assert "There is a dataset" in refusal(folder, here, "made")
    assert propose(folder, "fox", here, force=True).name == "fox"
    for name in ("Fox", "a b", "-a", "a" * 65, "../x"):
        assert "is no name of a card" in refusal(folder, here, name)
    assert "No name for the card follows from '照片'" in refusal(pictures(tmp_path / "照片"), here)


@given(st.one_of(st.text(max_size=20), st.dictionaries(st.sampled_from("ab"), st.text(max_size=9), min_size=1)))
def test_any_value_stands_in_one_line_of_yaml(value: object) -> None:
    import yaml

    line = f"key: {scalar(value)}  # why\nnext: 1\n"
    assert line.count("\n") == 2 and yaml.safe_load(line) == {"key": value, "next": 1}
