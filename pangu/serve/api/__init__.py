"""The HTTP surface: OpenAI's Images endpoints over anything that can draw."""

from pangu.serve.api.asgi import build_api

__all__ = ["build_api"]
