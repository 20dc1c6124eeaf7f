"""Tests of pages, in a real browser."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
"""Debian's; the one without windows takes two thirds of the processor."""
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium-headless-shell")
