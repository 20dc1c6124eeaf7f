"""Lowest timesteps that were told in the noise levels of one schedule, in a training over those of another."""

from pathlib import Path

import pytest

from pangu.config import AutoencoderSource, NoiseSchedule, Recipe
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_rows
from pangu.data.table.admission_levels import AdmissionLevels
from pangu.data.table.versions import admission_of
from pangu.diffusion.training_levels import training_levels
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.storage import Home
from tests.small_dataset import NAME, commit_rows, row

FLOW = NoiseSchedule(prediction_type="flow_prediction", shift=3.0)


def admitted(home: Home, levels: AdmissionLevels) -> int:
    """Four drawings, every other one upscaled and limited to 300 of those levels."""
    rows = [row(one, index % 2 == 1) for index, one in enumerate(selection(4))]
    return commit_rows(home, rows, admission=levels.model_dump_json())


def under(schedule: NoiseSchedule) -> Recipe:
    return tiny().model_copy(update={"schedule": schedule})


def test_they_are_converted_at_equal_log_snr(tmp_path: Path) -> None:
    home, cards = Home(tmp_path), NoiseSchedule(beta_schedule="squaredcos_cap_v2")
    version = admitted(home, AdmissionLevels(schedule=cards, autoencoder=AutoencoderSource()))
    found = {}
    for name, schedule in (("flow", FLOW), ("same", cards), ("betas", NoiseSchedule())):
        outcome = encode(NAME, version, under(schedule), home)
        folder = home.encoded(NAME, outcome.encode_id)
        assert sorted(load_rows(folder, "structure").min_timestep_n.tolist()) == [0, 0, 300, 300]
        found[name] = sorted(load_rows(folder, "structure", under(schedule)).min_timestep_n.tolist())
        assert load_rows(folder, "texture", under(schedule)).min_timestep_n.tolist() == [0, 0]
        theirs, ours = training_levels(cards), training_levels(schedule)
        limit = load_rows(folder, "structure", under(schedule)).min_timestep_n.max().reshape(1)
        hidden = float(theirs.level(limit * 0 + 300).log_snr)
        assert float(ours.level(limit).log_snr) <= hidden + 1e-4, "at least as noisy"
        assert float(ours.level(limit - 1).log_snr) > hidden, "and no more than that"
    assert found["same"] == [0, 0, 300, 300]
    assert found["flow"][:2] == found["betas"][:2] == [0, 0]
    assert len({tuple(limits) for limits in found.values()}) == 3


def test_another_autoencoder_is_refused_where_it_was_estimated_in_one(tmp_path: Path) -> None:
    home, elsewhere = Home(tmp_path), AutoencoderSource(source=str(tmp_path / "vae"))
    refused = admitted(home, AdmissionLevels(schedule=NoiseSchedule(), autoencoder=elsewhere))
    with pytest.raises(UserError, match=r"estimated in the latents of .*vae, but recipe 'tiny' encodes with embedded"):
        encode(NAME, refused, tiny(), home)
    rows = [row(one, index % 2 == 1) for index, one in enumerate(selection(4))]
    constant = AdmissionLevels(schedule=NoiseSchedule(), autoencoder=None)
    version = commit_rows(home, rows, "constant", admission=constant.model_dump_json())
    assert encode(NAME, version, tiny(), home).rows["structure"] >= 4


def test_a_version_whose_log_does_not_say_is_read_as_before(tmp_path: Path) -> None:
    home = Home(tmp_path)
    version = commit_rows(home, [row(one, index % 2 == 1) for index, one in enumerate(selection(4))])
    assert admission_of(home, NAME, version) is None
    outcome = encode(NAME, version, under(FLOW), home)
    folder = home.encoded(NAME, outcome.encode_id)
    assert "admission" not in EncodedManifest.load(folder).model_dump()
    assert sorted(load_rows(folder, "structure", under(FLOW)).min_timestep_n.tolist()) == [0, 0, 300, 300]
