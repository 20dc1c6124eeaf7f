"""The HTTP surface: OpenAI's Images endpoints over anything that can draw. Knows no Ray and no models."""

from pangu.serve.api.app import build_api

__all__ = ["build_api"]
