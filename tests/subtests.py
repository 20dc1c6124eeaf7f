"""`subtests.parametrize` and `Checks`: cases of one test, which pytest runs and reports one by one and counts as one test."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

_Test = Callable[..., None]
_Case = tuple[str, dict[str, Any]]
"""What it is called, and its arguments."""


def parametrize(
    names: str | Sequence[str], cases: Iterable[Any], ids: Sequence[str] | Callable[[Any], object] | None = None
) -> Callable[[_Test], _Test]:
    """Like `pytest.mark.parametrize`, as subtests of one test: a case that fails is named, and those behind it run all the same.

    One above another makes every combination. Each case has a `monkeypatch` and an empty `tmp_path` of its own, and sees nothing
    of what others printed or logged; it shares all other fixtures. A case with a mark of its own needs pytest's decorator.
    """
    several = not isinstance(names, str) or "," in names
    fields = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    own = [_case(number, case, fields, several, ids) for number, case in enumerate(cases)]
    assert own, f"no cases of {names}"

    def decorate(test: _Test) -> _Test:
        inner, others = getattr(test, "_cases", (test, [("", {})]))
        combined = [("-".join(filter(None, (a, b))), {**x, **y}) for b, y in own for a, x in others]
        given = combined[0][1].keys()
        fixtures = [each for each in inspect.signature(inner).parameters.values() if each.name not in given]

        @functools.wraps(inner, updated=())
        def run(subtests: "pytest.Subtests", **found: Any) -> None:
            for number, (name, arguments) in enumerate(combined):
                with subtests.test(msg=name), _fresh(found, number) as own_fixtures:
                    inner(**own_fixtures, **arguments)

        subtests = inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY)
        keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in fixtures]
        run.__signature__ = inspect.Signature([*keywords, subtests])  # type: ignore[attr-defined]
        run._cases = inner, combined  # type: ignore[attr-defined]
        run.pytestmark = [*getattr(test, "pytestmark", [])]  # type: ignore[attr-defined]
        return run

    return decorate


class Checks:
    """Small functions of a file that count as one test: the object is their decorator, and `test()`, below the last, is the test.

    Each is a subtest under its own name, with fixtures as `parametrize` gives them to a case.
    """

    def __init__(self) -> None:
        self._checks: list[_Test] = []

    def __call__(self, check: _Test) -> _Test:
        self._checks.append(check)
        return check

    def test(self) -> _Test:
        """What pytest finds under the name that this is given."""
        checks = [(check, [*inspect.signature(check).parameters]) for check in self._checks]
        assert checks, "no checks"

        def run(subtests: "pytest.Subtests", **found: Any) -> None:
            for number, (check, names) in enumerate(checks):
                given = {name: found[name] for name in names}
                with subtests.test(msg=check.__name__), _fresh(given, number) as own_fixtures:
                    check(**own_fixtures)

        fixtures = dict.fromkeys(["subtests", *(name for _, names in checks for name in names)])
        keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in fixtures]
        run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        return run


def _case(
    number: int, case: Any, fields: list[str], several: bool, ids: Sequence[str] | Callable[[Any], object] | None
) -> _Case:
    name = None
    if hasattr(case, "marks"):  # pytest.param
        assert not case.marks, "a case with a mark needs pytest.mark.parametrize"
        name, case = case.id, case.values if several else case.values[0]
    values = list(case) if several else [case]
    assert len(values) == len(fields), f"{fields} from {case!r}"
    if ids is not None and not callable(ids):
        name = ids[number]
    shown = ids if callable(ids) else lambda value: None
    name = name or "-".join(
        _shown(shown(value), f"{field}{number}", value) for field, value in zip(fields, values, strict=True)
    )
    return name, dict(zip(fields, values, strict=True))


def _shown(chosen: object, fallback: str, value: Any) -> str:
    if chosen is not None:
        return str(chosen)
    if isinstance(value, str | int | float | bool | bytes | None):
        return repr(value) if len(repr(value)) < 80 else fallback
    return getattr(value, "__name__", fallback)


@contextmanager
def _fresh(fixtures: Mapping[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """Fixtures of one case: those of a single test that pytest brings along are its own, all others as they are."""
    own = dict(fixtures)
    with ExitStack() as ended:
        if "tmp_path" in own:
            own["tmp_path"] = own["tmp_path"] / f"case{number}"
            own["tmp_path"].mkdir()
        if "monkeypatch" in own:
            own["monkeypatch"] = ended.enter_context(own["monkeypatch"].context())
        for name in ("capsys", "capfd"):
            if name in own:
                own[name].readouterr()
        for name in ("caplog", "recwarn"):
            if name in own:
                own[name].clear()
        yield own
