"""The untrained tiny pair, built once, under a fresh pipeline for each test."""

import pytest

from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny


@pytest.fixture(scope="session")
def shared_pair() -> PanGuDrawPipeline:
    pair = untrained_pair(tiny())
    pair.set_progress_bar_config(disable=True)
    return pair


@pytest.fixture
def pair(shared_pair: PanGuDrawPipeline) -> PanGuDrawPipeline:
    """The shared networks under a pipeline of their own; a test that changes a network copies it first."""
    pair = PanGuDrawPipeline(
        **shared_pair.components,
        contracts=dict(shared_pair.config.contracts),
        hidden_layers=shared_pair.config.hidden_layers,
        styles={"photo": "a photo of", "cartoon": "cartoon style,"},
    )
    pair.set_progress_bar_config(disable=True)
    return pair
