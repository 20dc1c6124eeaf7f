"""What `pangu retrain` asks for, what it refuses before anything is started, and what it shows and leaves."""

from pathlib import Path

import pytest
from PIL import Image

from flows.parameters import RetrainPair
from pangu.cli.next_step import behind
from pangu.errors import UserError
from pangu.image_grid import png
from pangu.retrain import asked
from pangu.retrain.button import RunView, StageView
from pangu.retrain.display import QUIET_S, Quiet, _words, remaining, waiting_for
from pangu.retrain.outcome import HEAD, MARGIN, before_and_after, outcome_of
from pangu.storage import Home, write_atomically, write_json
from tests import subtests
from tests.data.propose.made_pictures import new_card, pictures


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "var", tables="")


def test_what_is_asked_for_is_what_the_form_takes_and_flows_find_it_from_wherever_they_run(here: Home) -> None:
    assert asked.settings_of("openmoji", "", None) == {"card": "openmoji", "recipe": "demo"}
    new_card(pictures(Path("spots"), 9), here)
    settings = asked.settings_of("spots", "", 7)
    form = RetrainPair.model_validate(settings)
    assert (form.changes.structure_steps, form.changes.texture_steps) == (7, 7)
    for place, name in ((form.card, "spots.yaml"), (form.recipe_file, "spots.recipe.json")):
        assert Path(place) == Path.cwd() / "datasets" / name
    assert "recipe_file" not in asked.settings_of("spots", "tiny", None), "what is named goes before what lies beside"
    asked.check("spots", form.recipe_file, here)


CARD = (
    "name: few\nsource: ../pictures\ncolumns: {{caption_en: {column}}}\nlicence: {{name: none}}\ntexture_min_side: 64\n"
)


@subtests.parametrize(
    ("card", "recipe", "captions", "sentence"),
    [
        ("openmojii", "", 0, r"no card 'openmojii'.* \(openmoji, .*`pangu new FOLDER`"),
        ("pictures", "", 0, r"pictures is a folder and no card; let one be proposed: `pangu new pictures`"),
        ("datasets/few.yaml", "single", 0, r"'single' trains no pair; choose another one: `pangu recipes`"),
        ("datasets/few.yaml", "dmeo", 0, r"Unknown recipe 'dmeo'"),
        ("datasets/few.yaml", "demo", 0, r"they have none; write what PICTURE.jpg shows into PICTURE.txt"),
        (
            "datasets/few.yaml",
            "demo",
            3,
            r"lists 3 pictures with captions.* takes 32 at a time.*`pangu new .*pictures few --force`",
        ),
    ],
)
def test_bad_input_is_one_sentence_with_its_remedy(
    card: str, recipe: str, captions: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder := Path("pictures")).mkdir()
    for number in range(3):
        Image.new("RGB", (80, 80), (90 * number, 0, 0)).save(folder / f"{number}.png")
        if number < captions:
            (folder / f"{number}.txt").write_text(f"number {number}")
    Path("datasets").mkdir()
    Path("datasets/few.yaml").write_text(CARD.format(column="txt"))
    with pytest.raises(UserError, match=sentence) as refused:
        settings = asked.settings_of(card, recipe, None)
        asked.check(card, settings["recipe"], Home(tmp_path / "var", tables=""))
    assert "\n" not in str(refused.value)


def test_a_full_disk_is_told_before_anything_is_begun(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "LEAST_FREE_GIB", 1e9)
    with pytest.raises(UserError, match=r"are free, and a retraining needs .*: `export PANGU_HOME=FOLDER`"):
        asked.check("openmoji", "demo", here)
    assert not here.root.exists()


def stage(
    percent: float = 0.0, state: str = "RUNNING", seconds: float = 60.0, words: str = "encode: starting"
) -> StageView:
    return StageView("encode", state, percent, words, seconds)


def test_a_stage_that_is_quiet_for_five_seconds_says_what_it_does_and_what_remains_is_no_guess() -> None:
    quiet = Quiet()
    assert quiet.seconds(stage(), 100.0) == 0 and quiet.seconds(stage(seconds=66), 106.0) == 6
    assert quiet.seconds(stage(1.0), 107.0) == 0 and quiet.seconds(stage(1.0, "FAILED"), 108.0) == 0
    assert _words(stage(), QUIET_S - 0.1) == "encode: starting"
    assert "latents" in _words(stage(), QUIET_S) and "(5 s without news)" in _words(stage(), QUIET_S)
    assert _words(stage(3.0, words="encode: 3 of 100"), 9).startswith("encode: 3 of 100; ")
    assert _words(stage(100, "COMPLETED", words="encode: 9 of 9"), 99) == "encode: 9 of 9"
    assert remaining(stage(50)) == "about 60 s left" and remaining(stage(10, seconds=60)) == "about 9 min left"
    for nothing in (stage(0), stage(1.0), stage(50, seconds=1), stage(100), stage(50, "COMPLETED")):
        assert remaining(nothing) == ""
    assert "waits for it" in waiting_for(RunView("SCHEDULED", "", (), "AwaitingConcurrencySlot"))
    assert waiting_for(RunView("COMPLETED", "", ())) == waiting_for(RunView("RUNNING", "", (stage(),))) == ""


def test_the_end_is_read_from_what_the_stages_left_and_a_sheet_survives_a_run_that_found_all_done(here: Home) -> None:
    new_card(pictures(Path("spots"), 9), here)
    folder = here.root / "flows" / "r"
    for name, colour in (("old", "red"), ("new", "blue")):
        write_atomically(here.root / f"{name}.png", png(Image.new("RGB", (40, 20), colour)))
    evaluated = {"pair_id": "p", "pair": "pairs/p", "sample_grid": str(here.root / "new.png")}
    write_json(folder / "evaluate.json", evaluated)
    decided = {"passed": True, "reason": "Better.", "champion_grid": str(here.root / "old.png"), "compared_with": "x"}
    write_json(folder / "gate.json", decided)
    closed = outcome_of(here, "r", "spots", RunView("FAILED", "The gate stays closed.", ()))
    assert (closed.sentence, closed.page) == ("The gate stays closed.", "") and Path(closed.sheet).is_file()
    assert behind(closed, [], here) == "pangu retrain spots"
    write_json(folder / "deploy.json", {"url": "http://h:1", "pair_version": 3})
    write_json(folder / "release.json", {"pair_version": 3})
    write_json(folder / "recipe.json", {})
    served = outcome_of(here, "r", "spots", RunView("COMPLETED", "", ()))
    assert (served.sentence, served.page, served.pair_version) == ("Better.", "http://h:1/studio", 3)
    drawn = Path(served.sheet).read_bytes()
    write_json(folder / "gate.json", decided | {"champion_grid": "", "reason": "It is the champion itself."})
    again = outcome_of(here, "r", "spots", RunView("COMPLETED", "", ()))
    assert again.sheet == served.sheet and Path(again.sheet).read_bytes() == drawn

    old, new = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (60, 30), "blue")
    sheet = before_and_after([("BEFORE", old), ("AFTER", new)])
    for picture, y in ((old, MARGIN + HEAD), (new, MARGIN + 2 * HEAD + old.height)):
        place = (MARGIN, y, MARGIN + picture.width, y + picture.height)
        assert sheet.crop(place).tobytes() == picture.tobytes()
        assert place[2] + MARGIN <= sheet.width and place[3] + MARGIN <= sheet.height
