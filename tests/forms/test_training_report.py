"""The report of a training as markdown, from a run folder, without a server."""

from PIL import Image

from flows.training_report import data_uri, history_of, markdown, small
from pangu.progress import Progress
from pangu.storage import Home, write_json
from pangu.train.history import HISTORY_FILE, SAMPLES_FOLDER, History


def test_the_newest_grid_of_the_run_is_shown_also_that_of_the_last_step(home: Home) -> None:
    run = home.run("single-a")
    (run / SAMPLES_FOLDER).mkdir(parents=True)
    for step, colour in ((2, "red"), (999_999, "green"), (1_000_000, "blue")):
        Image.new("RGB", (8, 8), colour).save(run / SAMPLES_FOLDER / f"step-{step:06d}.png")
    History(run / HISTORY_FILE).add(2, {"loss": 1.0, "loss/t0-499": 2.0, "time/data": 0.5})
    progress = Progress(stage="train-single", done=2, total=2, unit="steps", facts={"run": "single-a"})
    text = markdown("train-single", progress, history_of(progress))
    assert "### Samples, step-1000000" in text
    assert data_uri(small(run / SAMPLES_FOLDER / "step-1000000.png")) in text


def test_samples_come_first_with_their_captions_and_losses_by_ascending_timesteps(home: Home) -> None:
    run = home.run("r")
    losses = {"loss": 1.0, "loss/t750-874": 3.0, "loss/t0-124": 1.0, "loss/t500-624": 2.0}
    (run / SAMPLES_FOLDER).mkdir(parents=True)
    History(run / HISTORY_FILE).add(1, losses)
    Image.new("RGB", (9, 9)).save(run / SAMPLES_FOLDER / "step-000001.png")
    write_json(run / SAMPLES_FOLDER / "captions.json", [{"caption": "a fox"}, {"caption": "月亮"}, {"caption": None}])
    progress = Progress(stage="train-single", done=1, total=1, unit="steps", facts={"run": "r"})
    text = markdown("train-single", progress, history_of(progress))
    assert "From left to right, line by line: a fox; 月亮; -." in text
    places = [text.index(part) for part in ("### Samples", "| t0-124 |", "| t500-624 |", "| t750-874 |")]
    assert places == sorted(places)


def test_a_run_without_grids_is_reported_without_them(home: Home) -> None:
    History(home.run("single-b") / HISTORY_FILE).add(1, {"loss": 1.0})
    progress = Progress(stage="train-single", done=1, total=2, unit="steps", facts={"run": "single-b"})
    assert "### Samples" not in markdown("train-single", progress, history_of(progress))
