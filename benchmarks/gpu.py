"""Everything that needs a GPU, on one card within eight minutes: tests marked `gpu`, then the benchmarks, then a table.

Each part is a process of its own with a limit of its own. What does not begin in time is not run, and the table
says so. Needs no network and nothing of the platform but what computes: torch, diffusers, transformers, safetensors,
pydantic, numpy, pillow and pytest.

    python benchmarks/gpu.py [--seconds 480] [--only tests,throughput]

Exit status: 0 if all of it ran and holds, 1 if something failed, 2 if nothing failed but something did not run.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from claims import CLAIMS, GOALS

FOLDER = Path(__file__).resolve().parent
NEEDED = {
    "torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "safetensors": "safetensors",
    "pydantic": "pydantic", "numpy": "numpy", "PIL": "pillow", "pytest": "pytest",
}  # fmt: skip
"""Module -> what is installed for it."""
TESTS = "tests on the device"
NO_CARD = "no CUDA device"


@dataclass(frozen=True)
class Part:
    """A command and its claims.

    limit_s: the longest that it may take. last_s: of which its last measurement may take so much, if it measures while there is
    time (`--seconds`).
    """

    command: tuple[str, ...]
    claims: tuple[str, ...]
    limit_s: float
    last_s: float | None = None

    def within(self, limit_s: float) -> list[str]:
        """The command, told when to begin nothing more."""
        return [
            *self.command,
            *([] if self.last_s is None else ["--seconds", f"{max(0.0, limit_s - self.last_s):.0f}"]),
        ]


def parts() -> dict[str, Part]:
    """In the order in which they run: what is short first, and the rest of the time for training."""

    def script(name: str, claims: str, *limits: float) -> Part:
        command = sys.executable, str(FOLDER / f"{name}.py"), "--device", "cuda"
        return Part(command, tuple(CLAIMS[claims]), *limits)

    pytest = ("-m", "pytest", "-m", "gpu", "--confcutdir=tests/gpu", "-p", "no:cacheprovider", "tests/gpu")
    return {
        "tests": Part((sys.executable, *pytest), (TESTS,), 150),
        "encode": script("encode", "encode", 40),
        "sampling": script("sampling", "sampling", 90, 30),
        "serve": script("serve_pools", "serve", 60, 40),
        "throughput": script("throughput", "throughput", 300, 100),
    }


def missing(modules: Mapping[str, str]) -> list[str]:
    """What has to be installed for the modules that are not there."""
    return [package for module, package in modules.items() if find_spec(module) is None]


def card() -> str:
    """Name of the CUDA device, "" if there is none; asked of another process, which leaves the card's memory alone."""
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Row:
    """What became of one claim. holds: None means that it was not run. found: the figure, or why there is none."""

    name: str
    found: str
    holds: bool | None


def run(part: Part, limit_s: float) -> list[Row]:
    """The rows of one part; what it prints is shown as it comes. Whatever it started ends with it."""
    process = subprocess.Popen(
        part.within(limit_s), cwd=FOLDER.parent, env=environment(), stdout=subprocess.PIPE, start_new_session=True
    )
    deadline, lines, late = time.monotonic() + limit_s, [], None
    try:
        for line in output(process, deadline):
            print(line, flush=True)
            lines.append(line)
        process.wait(max(1.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        late = f"not done within {limit_s:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    return rows(part, lines, status, late)


def output(process: "subprocess.Popen[bytes]", deadline: float) -> Iterator[str]:
    """Whole lines, as they come. Raises TimeoutError at the deadline, s of the monotonic clock."""
    assert process.stdout is not None
    waiting = b""
    while True:
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        chunk = os.read(process.stdout.fileno(), 65536)
        *whole, waiting = (waiting + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
        if not chunk:
            return


def environment() -> dict[str, str]:
    """That of this process, with the checkout on the path and no model hub to wait for."""
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def rows(part: Part, lines: Sequence[str], status: int, late: str | None) -> list[Row]:
    """One row for each claim of the part, in their order. late: why it was ended, or None if it ended by itself.

    A claim without a line was not run where time was up; where the script failed, the claim failed with it.
    """
    if part.claims == (TESTS,):
        last = next((line.strip(" =\n") for line in reversed(lines) if line.strip()), "nothing printed")
        return [Row(TESTS, late or last, None if late or status == 5 else status == 0)]  # 5: none was found
    told = {line["name"]: line for line in map(parsed, lines) if line.get("name") in part.claims}
    found = []
    for name in part.claims:
        if name in told:
            line = told[name]
            value = f"{line['value']:.{GOALS[name].digits}f}" if line["value"] is not None else str(line.get("why"))
            found.append(Row(name, value, line["holds"]))
        elif late or status == 0:
            found.append(Row(name, late or "no line printed", None))
        else:
            found.append(Row(name, f"exit status {status}", False))
    return found


def parsed(line: str) -> dict[str, object]:
    """The JSON object of a line, or an empty one."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def not_run(part: Part, why: str) -> list[Row]:
    return [Row(name, why, None) for name in part.claims]


def table(found: Sequence[Row], device: str) -> str:
    """The whole as Markdown; a claim that was not run says why in the place of its figure."""
    says = {True: "holds", False: "**failed**", None: "not run"}
    head = [f"On {device or NO_CARD}:", "", "| claim | goal | measured | |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {_what(row)} | {row.found} | {says[row.holds]} |" for row in found)])


def _what(row: Row) -> str:
    goal = GOALS.get(row.name)
    return f"{row.name} | all pass" if goal is None else f"`{row.name}`: {goal.what} | {goal.said}"


def exit_status(found: Sequence[Row]) -> int:
    if any(row.holds is False for row in found):
        return 1
    return 0 if all(row.holds for row in found) else 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480, help="for everything together")
    parser.add_argument("--only", help=f"some of {','.join(parts())}")
    asked = parser.parse_args()
    if absent := missing(NEEDED):
        raise SystemExit(f"This Python lacks what computes; pip install {' '.join(absent)}.")
    deadline, device, found = time.monotonic() + asked.seconds, card(), []
    for name, part in parts().items():
        left = deadline - time.monotonic()
        if asked.only and name not in asked.only.split(","):
            found += not_run(part, "not asked for")
        elif not device:
            found += not_run(part, NO_CARD)
        elif left < 5:
            found += not_run(part, "no time left")
        else:
            found += run(part, min(part.limit_s, left))
    print(f"\n{table(found, device)}")
    raise SystemExit(exit_status(found))


if __name__ == "__main__":
    main()
