"""Every test file is in one stream."""

from pathlib import Path

from tests.streams import ROOT, STREAMS, arguments


def runs(name: str, file: str) -> bool:
    below = [argument for argument in arguments(name) if file.startswith(argument) and not argument.startswith("--")]
    left_out = [each for each in arguments(name) if f"--ignore={file}".startswith(each)]
    return bool(below) and not left_out


def test_every_test_file_is_in_one_stream() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert {file: found for file in files if len(found := [name for name in STREAMS if runs(name, file)]) != 1} == {}


def test_every_path_of_a_stream_is_there() -> None:
    assert [path for paths in STREAMS.values() for path in paths if not Path(ROOT, path).exists()] == []
