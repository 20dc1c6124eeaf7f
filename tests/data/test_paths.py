"""A home in a folder of any name: its path becomes URIs, patterns and addresses on the way, and must come back as it was."""

import json
from pathlib import Path

import pytest

from pangu.data.card import Card
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.source import expand
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import data_files, read_rows
from pangu.data.table.export import export_webdataset
from pangu.data.table.store import addressed, file_system, unaddressed
from pangu.data.table.versions import diff, log, show, vacuum
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.storage import Home
from tests import nasty, subtests
from tests.data.table.test_table import ROWS
from tests.small_dataset import NAME, commit_rows


def card(source: Path | str, **filters: object) -> Card:
    return Card.model_validate(
        {
            "name": "odd", "source": str(source), "columns": {"caption_en": "en", "caption_zh": "zh"},
            "licence": {"name": "CC0"}, "texture_min_side": 60,
            "upscale": {"target_side": 96, "upscaler": "lanczos", "min_timestep": 300}, "filters": filters,
        }
    )  # fmt: skip


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_from_pictures_to_encoded_rows_and_back_after_a_vacuum_in_a_home_of_any_name(tmp_path: Path) -> None:
    home, pictures = Home(tmp_path / nasty.NAME), tmp_path / nasty.NAME / "pictures #1 [a]*?::%20"
    pictures.mkdir(parents=True)
    for index, one in enumerate(selection(6)):
        (pictures / f"{index} #%20?.png").write_bytes(render_png(one, 48 if index % 2 else 128))
        (pictures / f"{index} #%20?.json").write_text(json.dumps({"en": one.caption_en, "zh": one.caption_zh}))
    done = ingest(card(pictures), home)
    made = prepare(card(pictures), done.ingest_id, home)
    assert (done.ok, made.rows, made.version, show(home, "odd").rows) == (6, 6, 0, 6)
    strict = refilter(card(pictures, min_side=60), home, 0)
    assert (strict.rows, strict.version, diff(home, "odd", 0, 1).removed) == (3, 1, 3)
    assert all(Path(file).is_file() for file in data_files(home, "odd", 1))
    assert encode("odd", 0, tiny(), home).rows["structure"] == 6
    assert export_webdataset(home, "odd", 1, home.root / "tars").rows == 3
    rows = read_rows(home, "odd", 0)

    assert vacuum(home, "odd", keep=1, dry_run=False)
    assert [entry.readable for entry in log(home, "odd")] == [True, False]
    back = prepare(card(pictures), done.ingest_id, home)
    assert not back.already_done and read_rows(home, "odd", back.version).equals(rows)
    assert prepare(card(pictures), done.ingest_id, home).model_copy(update={"already_done": False}) == back
    again = refilter(card(pictures, min_side=60), home, back.version)
    assert again.already_done and again.version == 1
    assert encode("odd", back.version, tiny(), home).rows["structure"] == 6

    assert vacuum(home, "odd", keep=1, dry_run=False)
    strict = refilter(card(pictures, min_side=60), home, back.version)
    assert not strict.already_done and read_rows(home, "odd", strict.version).num_rows == 3
    assert names_in(tmp_path) == [nasty.NAME]  # nothing was written under a name that only looks like the home's


@pytest.mark.long
def test_tables_in_folders_whose_names_decode_to_each_other_stay_apart(tmp_path: Path) -> None:
    names = [
        ".a",
        "~a",
        "a+b=c@d,e-f",
        " ",
        "a b",
        "a%20b",
        "a%2520b",
        "a#b",
        "a?b",
        "[a]^|",
        "\\a",
        "我😀\u3000",
        "a::b:*",
    ]
    for number, name in enumerate(names):
        home = Home(tmp_path / name)
        commit_rows(home, [{**one, "license": name} for one in ROWS[: 2 + number % 2]], "one")
        assert commit_rows(home, [{**one, "license": name} for one in ROWS[:1]], "two") == 1
    for number, name in enumerate(names):
        home = Home(tmp_path / name)
        assert read_rows(home, NAME, 0)["license"].to_pylist() == [name] * (2 + number % 2), name
        assert vacuum(home, NAME, keep=1, dry_run=False) and read_rows(home, NAME, 1)["license"].to_pylist() == [name]
    assert names_in(tmp_path) == sorted(names)


def test_a_home_behind_a_link_and_tables_beside_it_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / nasty.NAME).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / nasty.NAME)
    assert commit_rows(Home(tmp_path / "link"), ROWS[:2]) == 0
    assert read_rows(Home(tmp_path / nasty.NAME), NAME, 0).num_rows == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANGU_TABLES", f"tables {nasty.NAME}")
    assert commit_rows(Home(tmp_path / "home"), ROWS[:3]) == 0
    assert read_rows(Home(tmp_path / "home"), NAME, 0).num_rows == 3
    assert (tmp_path / f"tables {nasty.NAME}" / NAME).is_dir() and not (tmp_path / "home" / "tables").exists()


def test_only_the_star_of_the_card_is_a_pattern(tmp_path: Path) -> None:
    home = Home(tmp_path / nasty.NAME)
    folder = home.root / "x [1]"
    folder.mkdir(parents=True)
    for name in ("a?.csv", "b[1].csv", "a*.csv"):
        (folder / name).touch()

    def found(source: str) -> list[str]:
        one = card(source)
        return [Path(path).name for path in expand(one, one.source_uri(home))]

    assert found("home://x [1]/*.csv") == found("home://./x [1]//*.csv") == ["a*.csv", "a?.csv", "b[1].csv"]
    assert found(f"{folder}/b[1]*") == ["b[1].csv"]
    assert found("home://x [1]/a*.csv") == ["a*.csv"]  # a file of that very name
    assert found("home://x [1]/b[1].csv") == ["b[1].csv"]


def test_an_address_leads_back_to_what_it_was_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-1")
    for path in (f"/home/{nasty.NAME}/a?b.parquet", "/a%20b", f"s3://bucket/{nasty.NAME}/a?b#c%20d.parquet"):
        assert unaddressed(addressed(path)) == path
    place = tmp_path / nasty.NAME
    place.write_bytes(b"here")
    filesystem, path = file_system(str(place))
    assert filesystem.cat_file(path) == b"here"


@subtests.parametrize("character", ["\n", "\x7f", "\udcff", "\u2028"])
def test_a_home_that_nobody_can_print_is_refused(character: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANGU_HOME", f"/tmp/a{character}b")
    with pytest.raises(UserError, match=r"unprintable character .* set PANGU_HOME to a folder") as refused:
        Home.from_environment()
    assert str(refused.value).isascii() and str(refused.value).isprintable()
