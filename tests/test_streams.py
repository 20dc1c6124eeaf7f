"""Every folder of tests is in one stream."""

from pathlib import Path

from tests.streams import STREAMS


def test_what_units_leave_out_is_in_another_stream() -> None:
    left_out = {argument.removeprefix("--ignore=") for argument in STREAMS["units"]}
    others = [argument for name, arguments in STREAMS.items() if name != "units" for argument in arguments]
    named = [Path(argument) for argument in others if not argument.startswith("--")]
    assert left_out == {str(Path(*path.parts[:2])) for path in named}
    assert len(named) == len(set(named)) and all(path.exists() for path in named)
    # A file or folder that stands by itself inside another stream's is left out there.
    inside = {path for path in named if any(other in path.parents for other in named)}
    assert {f"--ignore={path}" for path in inside} <= set(STREAMS["servers"])
