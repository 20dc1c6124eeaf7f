"""Deployment `release-pair`: register a measured pair and serve it."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.parameters import ReleasePair
from flows.release_report import show_links
from flows.reporting import staged
from flows.stages import deploy, release, stop_everything


@flow(name="release-pair", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def release_pair(settings: ReleasePair) -> dict[str, Any]:
    """A version for each generator and one for the pair, the alias `champion`, and the served API."""
    halves = settings.structure, settings.texture
    done = release_and_deploy(settings.pair, *halves, settings.metrics, serve=settings.deploy, middles=settings.middles)
    show_links(done)
    return done


def release_and_deploy(
    pair: str, structure: str, texture: str, metrics: str, *, serve: bool, middles: Sequence[str] = ()
) -> dict[str, Any]:
    """The release names one fixed version, and that version is deployed, whatever the alias points to by then."""
    released = release(pair, structure, texture, metrics, middles)
    if not serve:
        return {"release": released}
    return {"release": released, "deploy": deploy(released["pair_version"])}
