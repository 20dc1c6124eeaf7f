"""What a killed process was writing goes with the next one that writes the same, and nobody else's."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pangu.data.table.scratch_folder import ScratchFolder
from pangu.storage import replacing, write_atomically

MAKE = """
import sys, time
from pathlib import Path
from pangu.data.table.scratch_folder import ScratchFolder
from pangu.storage import replacing
folder, place = ScratchFolder("some-", Path(sys.argv[1])), Path(sys.argv[1])
(folder.path / "file").write_text("half")
with replacing(place / "written") as file:
    file.write(b"half of what was to be written")
    file.flush()
    print(flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_goes_with_the_next_of_its_kind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        [used] = tmp_path.glob("some-*")
        with ScratchFolder("some-", tmp_path) as mine:
            assert {path.name for path in used.iterdir()} >= {"file"}, "another one is still in use"
            assert mine.is_dir() and mine != used
        write_atomically(tmp_path / "written", b"whole")
        assert (tmp_path / "written").read_bytes() == b"whole", "two may write at once"
        assert (tmp_path / ".written.tmp").read_bytes() == b"half of what was to be written"
        other.send_signal(signal.SIGKILL)
    with ScratchFolder("some-", tmp_path) as mine, ScratchFolder("else-", tmp_path):
        assert not used.exists() and mine.is_dir()
    write_atomically(tmp_path / "written", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"written": b"new"}


def test_what_nobody_is_known_to_use_goes_after_a_day_and_with_its_object(tmp_path: Path) -> None:
    """As versions of before made them, without a mark."""
    for name, age in (("some-old", 90_000), ("some-new", 10)):
        (tmp_path / name).mkdir()
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    folder = ScratchFolder("some-", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"some-new", folder.path.name}
    del folder
    assert [path.name for path in tmp_path.iterdir()] == ["some-new"]


def test_many_that_write_one_file_at_once_leave_one_whole_and_nothing_beside_it(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            write_atomically(tmp_path / "written", bytes([number]) * 10_000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [file] = tmp_path.iterdir()
    assert file.read_bytes() in {bytes([number]) * 10_000 for number in range(8)}
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "written"):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["written"]
