"""Which command a dataset asks for next, by what lies in the home: so that no id is carried by hand.

Files alone are looked at, and only their times and a little JSON: every command may ask at its end.
"""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from pangu.config import MIDDLE_ROLES, ROLES
from pangu.storage import Home, read_json

FIRST = "pangu new FOLDER", "a card from a folder or a table of your own pictures"
"""Where nothing has been begun; or `make demo`, where there are no pictures."""


def next_command(home: Home, card: str, name: str, recipe: str = "") -> str:
    """The command behind the last stage that is done for a dataset; "" where files do not say.

    card: as the user names it; name: that of its dataset. recipe: of the command that ended; "": that beside the card, or `demo`.
    A stage is done if its result is newer than what it was made from.
    """
    if home.tables:
        return ""
    folder, recipe = home.dataset(name), recipe or _recipe_beside(name)
    ingests = _by_age(folder.glob("raw/*/outcome.json"))
    if not ingests:
        return _line("pangu ingest", card)
    commits = _by_age(home.table(name).glob("_delta_log/*.json"))
    if not commits or _age(commits[-1]) < _age(ingests[-1]):
        return _line("pangu prepare", card, "--ingest-id", ingests[-1].parent.name)
    encoded = _by_age(folder.glob("encoded/*/manifest.json"))
    if not encoded or _age(encoded[-1]) < _age(commits[-1]):
        version = max(int(commit.stem) for commit in commits if commit.stem.isdecimal())
        return _line("pangu encode", card, "--version", str(version), "--recipe", recipe)
    encode_id = encoded[-1].parent.name
    trained = _trained(home, encode_id)
    experts = _experts(home, encode_id)
    for role in experts:
        if role not in trained:
            return _line("pangu train", card, "--encode-id", encode_id, "--recipe", recipe, "--role", role)
    halves = _named([str(trained[role]) for role in experts])
    if _served(home, trained[ROLES[0]]):
        return ""
    result = f"{name}.evaluated.json"
    return _line("pangu evaluate", card, *halves, "--encode-id", encode_id, "--recipe", recipe, "--result", result)


def behind(outcome: BaseModel, arguments: Sequence[str], home: Home) -> str:
    """The command behind the one that ended with `outcome`; "" where there is none.

    arguments: those that it was called with.
    """
    kind, made, asked = type(outcome).__name__, outcome.model_dump(mode="json"), partial(_option, arguments)
    if kind == "EvaluateOutcome" and asked("--structure") and asked("--result"):
        halves = _named([asked("--structure"), *_options(arguments, "--middle"), asked("--texture")])
        return _line("pangu release", "--pair", made["pair"], *halves, "--metrics", asked("--result"))
    if kind == "MatrixOutcome":
        best = made["best"]
        halves = _named([best["structure"], *best.get("middles", ()), best["texture"]])
        card, given = _argument(arguments), (("--encode-id", asked("--encode-id")), ("--recipe", asked("--recipe")))
        kept = [text for name, value in given if value for text in (name, value)]
        return _line("pangu evaluate", card, *halves, *kept, "--result", f"{Path(card).stem}.evaluated.json")
    if kind == "Decision":
        measured = asked("--metrics")
        if not made["passed"] or not measured:
            return ""
        pair = read_json(Path(measured))["pair"]
        return _line("pangu release", "--pair", pair, *_named([pair] * _count(Path(pair))), "--metrics", measured)
    if kind == "BackupOutcome" and arguments[:1] == ["backup"]:
        return _line("PANGU_HOME=EMPTY_FOLDER pangu restore", made["file"])
    if kind == "Exported":
        return _line("pangu push", _argument(arguments), "OWNER/NAME")
    if kind == "ReleaseOutcome":
        return _line("pangu deploy", "--alias", made["alias"])
    if kind == "ImportedPair":
        return _line("pangu serve", made["name"])
    if kind == "DeployOutcome":
        return _line("python -m webbrowser", f"{made['url']}/studio")
    if kind == "NewCard":
        return str(made["next_command"])
    if kind == "RetrainOutcome":
        again = _line("pangu retrain", made["card"])
        if made["page"]:
            return _line("python -m webbrowser", made["page"])
        return f"{again} --watch" if made["state"] == "RUNNING" else again
    if kind in ("IngestOutcome", "PrepareOutcome", "EncodeOutcome", "TrainOutcome"):
        name = made.get("dataset") or _dataset_of(home, made["run_name"])
        card = next((one for one in arguments if one.endswith((".yaml", ".yml")) and one != asked("--recipe")), name)
        return next_command(home, card, name, asked("--recipe"))
    return ""


def say_next(outcome: BaseModel) -> None:
    """Say the command behind the one that ends here to a person: on standard error, if it is a terminal."""
    if not sys.stderr.isatty():
        return
    with suppress(
        OSError, ValueError, KeyError, TypeError, IndexError
    ):  # what was done is done, whatever else lies in the home
        if line := behind(outcome, sys.argv[1:], Home.from_environment()):
            print(f"Next: {line}", file=sys.stderr)


def say_first(home: Home) -> None:
    """Say the command of one who has named none, behind a command that is about no card: to a terminal."""
    if sys.stderr.isatty():
        print("Next: {}    ({})".format(*first_command(home)), file=sys.stderr)


def _argument(arguments: Sequence[str]) -> str:
    """The first argument behind the command's name.

    Raises:
        ValueError: an option stands there, and which of the others are its values is not known here.
    """
    if arguments[1].startswith("-"):
        raise ValueError(f"{arguments[0]} was called with an option first")
    return arguments[1]


def _option(arguments: Sequence[str], name: str) -> str:
    """The value of an option, "" if it was not given."""
    return next(_options(arguments, name), "")


def _options(arguments: Sequence[str], name: str) -> Iterator[str]:
    """The values of an option that may be given again."""
    for place, one in enumerate(arguments):
        if one == name:
            yield next(iter(arguments[place + 1 : place + 2]), "")
        if one.startswith(f"{name}="):
            yield one.removeprefix(f"{name}=")


def _named(generators: Sequence[str]) -> list[str]:
    """The options that name the experts of a pair, the noisiest first."""
    names = ["--structure", *["--middle"] * (len(generators) - len(ROLES)), "--texture"]
    return [text for both in zip(names, generators, strict=True) for text in both]


def _count(pair: Path) -> int:
    """Of the experts of a pair's folder."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return len(read_json(pair / "model_index.json")["contracts"])
    return len(ROLES)


def _dataset_of(home: Home, run_name: str) -> str:
    return Path(read_json(home.run(run_name) / "job.json")["encoded"]).parents[1].name


def first_command(home: Home) -> tuple[str, str]:
    """(command, why) for one who has named none: the next stage of the card that was touched last in the working folder."""
    from pangu.data.card import card_folders

    cards = _by_age(card_folders()[0].glob("*.yaml"))
    own = [card for card in cards if home.dataset(card.stem).is_dir()]
    if not own:
        return FIRST
    name = own[-1].stem
    if not any(home.dataset(name).glob("raw/*/outcome.json")):
        return _line("pangu retrain", name), f"from {name} to a served pair"
    return next_command(home, name, name) or _line("pangu retrain", name), f"goes on with {name}"


def _recipe_beside(name: str) -> str:
    """The recipe that `pangu new` left beside a card."""
    from pangu.data.card import card_folders

    file = card_folders()[0] / f"{name}.recipe.json"
    return str(file) if file.is_file() else "demo"


def _trained(home: Home, encode_id: str) -> dict[str, Path]:
    """Role -> the generator of its newest finished run on an encoded dataset."""
    found = dict[str, Path]()
    for outcome in _by_age((home.root / "runs").glob("*/outcome.json")):
        try:
            job = read_json(outcome.parent / "job.json")
            if job["encode_id"] == encode_id:
                found[job["role"]] = Path(read_json(outcome)["generator"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _experts(home: Home, encode_id: str) -> tuple[str, ...]:
    """The experts that the newest run on an encoded dataset belongs to, in the order of their turns; before one, the two."""
    for file in reversed(_by_age((home.root / "runs").glob("*/job.json"))):
        with suppress(OSError, ValueError, KeyError, TypeError):
            job = read_json(file)
            if job["encode_id"] == encode_id:
                return (ROLES[0], *MIDDLE_ROLES[: len(job["recipe"].get("further_boundaries", ()))], ROLES[1])
    return ROLES


def _served(home: Home, generator: Path) -> bool:
    """Whether a flow run that trained this generator has deployed it."""
    for done in (home.root / "flows").glob("*/deploy.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if Path(read_json(done.with_name(f"train-{ROLES[0]}.json"))["generator"]) == generator:
                return True
    return False


def _by_age(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=_age)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it went meanwhile
        return 0.0


def _line(command: str, *arguments: str) -> str:
    return " ".join([command, *map(shlex.quote, arguments)])
