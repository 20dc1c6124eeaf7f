"""The answer of a chat model behind OpenAI's protocol, as all who ask one read it."""

from typing import Any


def text_of(completion: Any) -> str:
    """The text of a chat completion as it was decoded from JSON; empty where the model said nothing.

    Raises:
        ValueError: it is no chat completion.
    """
    try:
        text = completion["choices"][0]["message"]["content"]
    except (LookupError, TypeError) as error:
        raise ValueError("no chat completion") from error
    return text if isinstance(text, str) else ""
