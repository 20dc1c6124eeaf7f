"""Two skin tones of each person: which ones, and that none is kept more often than another."""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pangu.data.example.openmoji import every_drawing
from pangu.data.example.tones import SKIN_TONES, few_tones, tones_of, without_tones

TONES = [chr(code) for code in SKIN_TONES]
people = st.sets(st.integers(0x1F400, 0x1F4FF).map(chr), min_size=1, max_size=40)
shifts = st.integers(0, 9)


def tones_by_person(texts: set[str]) -> dict[str, set[int]]:
    found = defaultdict[str, set[int]](set)
    for text in texts:
        found[without_tones(text)].update(tones_of(text))
    return found


@given(
    drawn=st.dictionaries(st.integers(0x1F400, 0x1F4FF).map(chr), st.sets(st.sampled_from(TONES)), max_size=20),
    shift=shifts,
)
def test_each_person_keeps_two_of_its_tones_and_the_drawing_without_any(drawn: dict[str, set[str]], shift: int) -> None:
    texts = {person + tone for person, tones in drawn.items() for tone in (*tones, "")}
    kept = few_tones(texts, shift)
    assert kept <= texts and set(drawn) <= kept
    found = tones_by_person(kept)
    assert {person: len(found[person]) for person in drawn} == {one: min(2, len(tones)) for one, tones in drawn.items()}
    assert few_tones(sorted(texts, reverse=True), shift) == few_tones(kept, shift) == kept


@given(people=people, shift=shifts)
def test_no_tone_is_kept_of_more_people_than_another(people: set[str], shift: int) -> None:
    kept = few_tones((person + tone for person in people for tone in TONES), shift)
    counts = Counter(tone for text in kept for tone in tones_of(text))
    assert sum(counts.values()) == 2 * len(people)
    assert max(counts[tone] for tone in range(5)) - min(counts[tone] for tone in range(5)) <= 2


def test_three_artists_that_draw_the_same_people_show_all_five_tones_of_each() -> None:
    texts = [one.text for one in every_drawing()]
    found = tones_by_person(set().union(*(few_tones(texts, shift) for shift in range(3))))
    assert {len(tones) for tones in found.values()} == {0, 5}


def test_a_couple_keeps_the_drawings_in_which_both_have_one_of_its_two_tones() -> None:
    couple = {f"👩{one}\u200d🤝\u200d👨{other}" for one in TONES for other in TONES}
    kept = few_tones(couple)
    assert len(kept) == 4
    assert {tone for text in kept for tone in tones_of(text)} == {0, 2}
