"""Runs are named after what they do; a person's name is told from those that Prefect invents."""

from prefect.utilities.names import generate_slug

from flows.parameters import (
    DeployPair,
    DistillPair,
    EncodeDataset,
    IngestImages,
    RetrainPair,
    RollbackPair,
    TrainPartner,
    VacuumDatasets,
)
from flows.run_names import is_made_up
from tests import subtests


def test_invented_names_are_known_and_those_of_people_are_not() -> None:
    assert all(is_made_up(generate_slug(2)) for _ in range(2000))
    for name in ("lambda2-wasat", "psi-adorn", "theta99-akaali-field"):  # as the dashboard's form proposes them
        assert is_made_up(name)
    for name in ("photos again", "my-run", "asked-for-in-the-form", "retrain photos v3", "alpha", ""):
        assert not is_made_up(name)


@subtests.parametrize(
    ("settings", "deed"),
    [
        (RetrainPair(card="/somewhere else/photos.yaml"), "retrain photos"),
        (DistillPair(card="photos"), "distill photos"),
        (IngestImages(), "ingest openmoji"),
        (EncodeDataset(card="photos", version=3), "encode photos v3"),
        (TrainPartner(card="photos"), "train a partner on photos"),
        (DeployPair(pair_version=7), "deploy pair v7"),
        (RollbackPair(), "roll back"),
        (VacuumDatasets(), "vacuum all datasets"),
        (VacuumDatasets(dataset="photos"), "vacuum photos"),
    ],
)
def test_a_form_says_what_its_run_does(settings: RetrainPair, deed: str) -> None:
    assert settings.deed == deed
