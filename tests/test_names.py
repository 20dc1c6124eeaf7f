"""One rule for whatever a person calls a thing: an id, `latest`, a name, the beginning of an id; else one sentence."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.errors import UserError
from pangu.exchange.places import generator_folder, pair_folder
from pangu.names import LATEST, Named, encodings, ingests, nearest, pairs, resolve, runs
from pangu.storage import Home, write_json

IDS = st.text("ab1", min_size=1, max_size=5)
THINGS = st.lists(
    st.builds(Named, IDS, st.lists(IDS, max_size=2).map(tuple), st.floats(0, 9)),
    unique_by=lambda one: one.id,
    max_size=8,
)


@given(THINGS, IDS | st.just(LATEST) | st.just(""))
def test_what_is_meant_is_one_thing_or_a_sentence_that_lists_all_that_it_may_be(
    things: list[Named], asked: str
) -> None:
    by_name = {one.id for one in things if asked in one.names}
    by_beginning = {one.id for one in things if asked and one.id.startswith(asked)}
    try:
        found = resolve(asked, things, "run", "pangu train")
    except UserError as error:
        assert asked not in {one.id for one in things} and (asked != LATEST or not things)
        assert len(by_name) != 1 and (by_name or len(by_beginning) != 1)
        listed = str(error).replace(".", "").replace(",", "").split()
        may_be = by_name or by_beginning
        shown = may_be & set(listed)
        assert len(shown) >= min(len(may_be), 6) and str(error).count(". ") == 0
        assert things or "`pangu train`" in str(error)
        return
    ids = {one.id for one in things}
    assert found in ids
    if asked in ids:
        assert found == asked
    elif asked == LATEST:
        assert max(one.age for one in things) == next(one.age for one in things if one.id == found)
    else:
        assert {found} == (by_name or by_beginning)


@given(THINGS, st.randoms())
def test_the_order_in_which_a_folder_lists_things_means_nothing(things: list[Named], random) -> None:
    shuffled = random.sample(things, len(things))
    for asked in (LATEST, "a", "ab"):
        answers = []
        for these in (things, shuffled):
            try:
                answers.append(resolve(asked, these, "run", "pangu train"))
            except UserError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]


def test_a_home_names_what_is_finished_and_halves_and_pairs_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    known = ["emoji_artists", "openmoji", "vases"]
    assert nearest("vase", known) == ["vases"] and nearest("openmojii", known)[0] == "openmoji"
    assert nearest("qqqq", known) == known, "none is near, so all are shown"
    home = Home(tmp_path, tables="")
    write_json(home.raw("d", "i1") / "outcome.json", {})
    write_json(home.encoded("d", "e1") / "manifest.json", {})
    home.encoded("d", "e2").mkdir()
    assert [one.id for one in ingests(home, "d")] == ["i1"] and [one.id for one in encodings(home, "d")] == ["e1"]
    for number, (name, role) in enumerate([("s-aa", "structure"), ("s-ab", "structure"), ("t-aa", "texture")]):
        write_json(home.run(name) / "job.json", {"role": role})
        write_json(home.run(name) / "generator" / "config.json", {})
        write_json(home.run(name) / "outcome.json", {})
        os.utime(home.run(name) / "outcome.json", (number, number))
    write_json(home.run("s-going") / "job.json", {"role": "structure"})
    write_json(home.pair("p-one") / "model_index.json", {})
    assert [one.id for one in pairs(home)] == ["p-one"] and len(runs(home)) == 4
    assert {one.id for one in runs(home, "structure", finished=True)} == {"s-aa", "s-ab"}

    def half(asked: str, role: str | None) -> str:
        return generator_folder(asked, role, home).relative_to(tmp_path).as_posix()  # type: ignore[arg-type]

    assert half("latest", "structure") == "runs/s-ab/generator" and half("s-aa", "structure") == "runs/s-aa/generator"
    assert half("texture", "texture") == half("t", "texture") == half("latest", None) == "runs/t-aa/generator"
    assert half("p-one", "texture") == "pairs/p-one/texture"
    for asked in ("latest", "p-", "p-one"):
        assert pair_folder(asked, home) == home.pair("p-one")
    with pytest.raises(UserError, match=r"^'s-a' may mean 2 structure runs; name one of s-ab, s-aa, or latest\.$"):
        half("s-a", "structure")
    with pytest.raises(UserError, match=r"^There is no pair 'q'; name latest or one of p-one\.$"):
        pair_folder("q", home)
