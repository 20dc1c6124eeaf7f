"""Copies of checkpoints elsewhere: whole or not at all, the newest wins, and a lost folder comes back."""

import errno
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pangu.errors import UserError
from pangu.train.checkpoint import CheckpointState, latest_checkpoint
from pangu.train.loop import Hooks, train_loop
from pangu.train.upload import Uploader, copy_checkpoint, fetch_missing, open_uri
from tests.train.rows import random_rows, small_recipe


class Unreliable(MemoryFileSystem):
    """A memory filesystem of its own that fails so many writes, and waits where it is told to."""

    protocol = "unreliable"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    failures = 0
    written: ClassVar[list[str]] = []
    gate = threading.Event()

    def put_file(self, lpath: str, rpath: str, **options: object) -> None:
        self._stumble()
        super().put_file(lpath, rpath, **options)
        self.written.append(rpath)

    def pipe_file(self, path: str, value: bytes, **options: object) -> None:
        self._stumble()
        super().pipe_file(path, value, **options)
        self.written.append(path)

    @classmethod
    def _stumble(cls) -> None:
        assert cls.gate.wait(20)
        if cls.failures > 0:
            cls.failures -= 1
            raise OSError(errno.EIO, "the network is gone")


@pytest.fixture
def elsewhere() -> Iterator[str]:
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    Unreliable.store.clear()
    Unreliable.pseudo_dirs[:] = [""]
    Unreliable.written.clear()
    Unreliable.failures = 0
    Unreliable.gate.set()
    yield "unreliable://backup"
    Unreliable.gate.set()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of steps 1 to 4 of one run."""
    kept = tmp_path_factory.mktemp("kept")
    run = tmp_path_factory.mktemp("run")

    def keep(path: Path) -> None:
        shutil.copytree(path, kept / path.name)

    train_loop("structure", small_recipe(steps=4), random_rows(), "e", run, hooks=Hooks(checkpoint=keep))
    return sorted(kept.iterdir())


def uploader(uri: str, tmp_path: Path, pauses_s: tuple[float, ...] = (0.01,) * 3) -> Uploader:
    return Uploader(uri, "run", tmp_path / "spool", pauses_s)


def test_a_copy_comes_back_as_the_same_checkpoint(elsewhere: str, checkpoints: list[Path], tmp_path: Path) -> None:
    upload = uploader(elsewhere, tmp_path)
    upload(checkpoints[-1])
    assert upload.finish() == ""
    fetched = fetch_missing(elsewhere, "run", tmp_path / "new")
    assert fetched is not None
    for file in checkpoints[-1].iterdir():
        assert (fetched / file.name).read_bytes() == file.read_bytes()
    assert fetch_missing(elsewhere, "run", tmp_path / "new") is None
    assert not (tmp_path / "spool").exists()


def test_the_state_that_makes_a_copy_whole_comes_last(elsewhere: str, checkpoints: list[Path], tmp_path: Path) -> None:
    upload = uploader(elsewhere, tmp_path)
    upload(checkpoints[0])
    upload.finish()
    assert len(Unreliable.written) == 4
    assert Unreliable.written[-1].endswith("/state.json")


@pytest.mark.parametrize("failures", [1, 3])
def test_a_failing_network_is_tried_again(
    elsewhere: str, checkpoints: list[Path], tmp_path: Path, failures: int
) -> None:
    Unreliable.failures = failures
    upload = uploader(elsewhere, tmp_path)
    upload(checkpoints[0])
    assert upload.finish() == ""
    assert fetch_missing(elsewhere, "run", tmp_path / "new") is not None


def test_a_copy_that_fails_for_good_is_one_sentence_and_the_checkpoint_stays(
    elsewhere: str, checkpoints: list[Path], tmp_path: Path
) -> None:
    Unreliable.failures = 1000
    upload = uploader(elsewhere, tmp_path)
    upload(checkpoints[0])
    sentence = upload.finish()
    assert sentence.startswith("Checkpoint step-000001 could not be copied to unreliable://backup/run")
    assert "the network is gone" in sentence
    assert checkpoints[0].is_dir()


def test_the_finished_generator_follows_the_last_checkpoint_with_its_contract_last(
    elsewhere: str, checkpoints: list[Path], tmp_path: Path
) -> None:
    generator = tmp_path / "generator"
    for name in ("config.json", "contract.json", "diffusion_pytorch_model.safetensors", "lora/contract.json"):
        path = generator / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    Unreliable.failures = 2
    upload = uploader(elsewhere, tmp_path)
    upload(checkpoints[-1])
    assert upload.finish(generator=generator) == ""
    files, target = open_uri(elsewhere, "run")
    assert files.cat_file(f"{target}/generator/lora/contract.json") == b"lora/contract.json"
    assert Unreliable.written[-1].endswith("run/generator/contract.json")
    assert fetch_missing(elsewhere, "run", tmp_path / "fresh") is not None


def test_where_it_lags_the_newest_wins_and_pruning_takes_nothing_away(
    elsewhere: str, checkpoints: list[Path], tmp_path: Path
) -> None:
    local = [Path(shutil.copytree(path, tmp_path / "run" / path.name)) for path in checkpoints]
    Unreliable.gate.clear()
    upload = uploader(elsewhere, tmp_path)
    for path in local:
        upload(path)
        shutil.rmtree(path)
    Unreliable.gate.set()
    assert upload.finish() == ""
    steps = {path.split("/")[-2] for path in Unreliable.written}
    assert "step-000004" in steps
    assert len(steps) <= 2  # the one that was under way, and the newest
    fetched = fetch_missing(elsewhere, "run", tmp_path / "new")
    assert fetched is not None
    assert (fetched / "state.json").read_bytes() == (checkpoints[-1] / "state.json").read_bytes()


@pytest.mark.parametrize("file", ["state.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_torn_copy_is_never_taken_for_a_whole_one(
    elsewhere: str, checkpoints: list[Path], tmp_path: Path, file: str, damage: str
) -> None:
    files, target = open_uri(elsewhere, "run")
    for path in checkpoints[-2:]:
        copy_checkpoint(files, path, f"{target}/{path.name}")
    victim = f"{target}/step-000004/{file}"
    data = files.cat_file(victim)
    files.rm_file(victim)
    if damage == "cut":
        files.pipe_file(victim, data[: len(data) // 2])
    fetched = fetch_missing(elsewhere, "run", tmp_path)
    assert fetched is not None
    assert fetched.name == "step-000003"


def test_a_run_goes_on_from_what_was_fetched(elsewhere: str, tmp_path: Path) -> None:
    recipe, rows = small_recipe(steps=4), random_rows()
    upload = uploader(elsewhere, tmp_path)

    def stop(step: int, metrics: dict) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_loop("structure", recipe, rows, "e", tmp_path / "lost", hooks=Hooks(stop, upload))
    upload.finish()
    fetch_missing(elsewhere, "run", tmp_path / "found")
    resumed = train_loop("structure", recipe, rows, "e", tmp_path / "found")
    whole = train_loop("structure", recipe, rows, "e", tmp_path / "whole")
    assert resumed.resumed_from == 2
    ours, theirs = (latest_checkpoint(tmp_path / name) for name in ("found", "whole"))
    assert ours is not None
    assert theirs is not None
    assert ours[1].files == theirs[1].files
    assert whole.steps == 4


def test_only_the_newest_two_copies_stay(elsewhere: str, checkpoints: list[Path], tmp_path: Path) -> None:
    for path in checkpoints:
        upload = uploader(elsewhere, tmp_path)
        upload(path)
        upload.finish()
    files, target = open_uri(elsewhere, "run")
    assert sorted(path.rsplit("/", 1)[1] for path in files.ls(target, detail=False)) == ["step-000003", "step-000004"]


def test_a_local_checkpoint_is_never_replaced(elsewhere: str, checkpoints: list[Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[0], tmp_path / "step-000001")
    files, target = open_uri(elsewhere, "run")
    copy_checkpoint(files, checkpoints[-1], f"{target}/step-000004")
    assert fetch_missing(elsewhere, "run", tmp_path) is None


def test_file_uris_work_as_well(checkpoints: list[Path], tmp_path: Path) -> None:
    uri = (tmp_path / "disk").as_uri()
    upload = uploader(uri, tmp_path)
    upload(checkpoints[1])
    assert upload.finish() == ""
    fetched = fetch_missing(uri, "run", tmp_path / "new")
    assert fetched is not None
    state = CheckpointState.model_validate_json((fetched / "state.json").read_bytes())
    assert state.step == 2


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match=r"watching.upload_to is 'nowhere://x', which cannot be opened"):
        open_uri("nowhere://x")
