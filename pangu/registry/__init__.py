"""Releases in MLflow: what goes in, how it comes out again."""

from pangu.registry.fetch import RegisteredPair, fetch_pair, resolve
from pangu.registry.manifest import Manifest
from pangu.registry.release import ReleaseOutcome, release

__all__ = ["Manifest", "RegisteredPair", "ReleaseOutcome", "fetch_pair", "release", "resolve"]
