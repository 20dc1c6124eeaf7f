"""A home that is destroyed comes back from its backup, file by file; half a backup never does."""

import io
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from pangu.data.table.delta import latest_version, read_rows
from pangu.errors import UserError
from pangu.stack.backup import LIST, backup, restore
from pangu.storage import Home, write_json
from tests.small_dataset import NAME, small_dataset


@pytest.fixture
def full(tmp_path: Path) -> Home:
    """A home with a real table, a database, a run, a secret, and things that need no keeping."""
    home = Home(tmp_path / "home")
    small_dataset(home)
    (home.stack / "mlflow").mkdir(parents=True)
    with closing(sqlite3.connect(home.stack / "mlflow/mlflow.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE versions (name TEXT)")
        database.execute("INSERT INTO versions VALUES ('pangu-pair')")
        database.commit()
    (home.stack / "ray_token").write_text("secret")
    (home.stack / "ray_token").chmod(0o600)
    write_json(home.run("structure-a") / "job.json", {"role": "structure"})
    (home.dataset(NAME) / "encoded/x").mkdir(parents=True)
    (home.dataset(NAME) / "encoded/x/part.parquet").write_bytes(b"0" * 1000)
    (home.dataset(NAME) / "raw/y").mkdir(parents=True)
    (home.dataset(NAME) / "raw/y/00000.parquet").write_bytes(b"1" * 1000)
    home.logs.mkdir()
    (home.logs / "ray.log").write_text("long")
    write_json(home.stack / "stack.json.old", {})
    return home


def rows(home: Home) -> list[str]:
    return sorted(read_rows(home, NAME, latest_version(home, NAME), columns=["key"])["key"].to_pylist())


def test_a_destroyed_home_comes_back(full: Home, tmp_path: Path) -> None:
    before = rows(full)
    # A writer that has not committed: the copy is of the last committed state.
    with closing(sqlite3.connect(full.stack / "mlflow/mlflow.db")) as writer:
        writer.execute("INSERT INTO versions VALUES ('never committed')")
        kept = backup(full, tmp_path / "b.tar")
    shutil.rmtree(full.root)
    assert restore(tmp_path / "b.tar", full).files == kept.files
    assert rows(full) == before
    with closing(sqlite3.connect(full.stack / "mlflow/mlflow.db")) as database:
        assert database.execute("SELECT name FROM versions").fetchall() == [("pangu-pair",)]
    assert (full.stack / "ray_token").stat().st_mode & 0o777 == 0o600
    assert (full.run("structure-a") / "job.json").is_file()
    assert not full.logs.exists() and not (full.dataset(NAME) / "encoded").exists()
    assert not (full.dataset(NAME) / "raw").exists()


def test_downloads_are_kept_where_one_asks_for_them(full: Home, tmp_path: Path) -> None:
    backup(full, tmp_path / "b.tar", downloads=True)
    restore(tmp_path / "b.tar", Home(tmp_path / "other"))
    assert (tmp_path / "other/datasets" / NAME / "raw/y/00000.parquet").read_bytes() == b"1" * 1000


def test_nothing_is_ever_replaced(full: Home, tmp_path: Path) -> None:
    backup(full, tmp_path / "b.tar")
    with pytest.raises(UserError, match="is there already"):
        backup(full, tmp_path / "b.tar")
    with pytest.raises(UserError, match="is not empty; move it away"):
        restore(tmp_path / "b.tar", full)


def test_an_empty_home_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to keep"):
        backup(Home(tmp_path / "nothing"), tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []


def changed(source: Path, target: Path, change: str) -> Path:
    """The backup with a file left out, added or altered."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for entry in old.getmembers():
            data = old.extractfile(entry)
            if change == "left out" and entry.name.endswith("job.json"):
                continue
            if change == "altered" and entry.name.endswith("ray_token"):
                entry.size, data = 6, io.BytesIO(b"SECRET")
            if change == "no list" and entry.name == LIST:
                continue
            new.addfile(entry, data)
    return target


@pytest.mark.parametrize("change", ["left out", "altered", "no list"])
def test_half_a_backup_leaves_no_half_home(full: Home, tmp_path: Path, change: str) -> None:
    backup(full, tmp_path / "b.tar")
    other = Home(tmp_path / "other")
    with pytest.raises(UserError, match="is no whole backup"):
        restore(changed(tmp_path / "b.tar", tmp_path / "c.tar", change), other)
    assert not other.root.exists() and not list(tmp_path.glob(".restoring-*"))


def test_a_torn_file_is_one_sentence(full: Home, tmp_path: Path) -> None:
    backup(full, tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="is no whole backup"):
        restore(tmp_path / "torn.tar", Home(tmp_path / "other"))
