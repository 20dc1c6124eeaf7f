"""The HTTP surface: OpenAI's Images endpoints over anything that can draw."""

from pangu.serve.api.app import build_api

__all__ = ["build_api"]
