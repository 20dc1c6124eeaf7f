"""Clients of OpenAI's Images API ask as they do by default: `asking.py ADDRESS PICTURE`, run by a Python that has them.

ADDRESS ends in /v1. One JSON line for each request on stdout: who asked, in which version, how, and what came of it.
"""

import base64
import importlib.metadata
import json
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROMPT = "a red apple"
Asked = tuple[str, str, Callable[[], Any]]
"""Distribution, the call as a reader would write it, and the call, which ends in the picture's base64 or its URL."""


def of_openai(address: str, picture: Path) -> Iterator[Asked]:
    from openai import OpenAI

    images = OpenAI(base_url=address, api_key="none", max_retries=0).images
    yield "openai", "images.generate(model, prompt)", lambda: images.generate(model="pangu-pair", prompt=PROMPT).data[0]
    yield "openai", "images.edit(image, prompt)", lambda: images.edit(image=picture.open("rb"), prompt=PROMPT).data[0]
    yield "openai", "images.create_variation(image)", lambda: images.create_variation(image=picture.open("rb")).data[0]


def of_litellm(address: str, picture: Path) -> Iterator[Asked]:
    import litellm

    where = {"model": "openai/pangu-pair", "api_base": address, "api_key": "none"}

    def edited() -> Any:
        return litellm.image_edit(image=picture.open("rb"), prompt=PROMPT, **where).data[0]

    def varied() -> Any:
        return litellm.image_variation(image=picture.open("rb"), **where).data[0]

    yield "litellm", "image_generation(model, prompt)", lambda: litellm.image_generation(prompt=PROMPT, **where).data[0]
    yield "litellm", "image_edit(model, image, prompt)", edited
    yield "litellm", "image_variation(model, image)", varied


def of_langchain(address: str, picture: Path) -> Iterator[Asked]:
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    def run(**given: Any) -> Any:
        return DallEAPIWrapper(base_url=address, api_key="none", max_retries=0, **given).run(PROMPT)

    yield "langchain-community", "DallEAPIWrapper().run(prompt)", run
    yield "langchain-community", 'DallEAPIWrapper(model="dall-e-3").run(prompt)', lambda: run(model="dall-e-3")


def what_came(answer: Any) -> dict[str, Any]:
    """Where the client found a picture, and how many bytes it has."""
    text = getattr(answer, "b64_json", None)
    if text:
        return {"reads": "b64_json", "bytes": len(base64.b64decode(text))}
    url = answer if isinstance(answer, str) else answer.url
    with urllib.request.urlopen(url, timeout=30) as file:
        return {"reads": "url", "bytes": len(file.read())}


def main() -> None:
    address, picture = sys.argv[1], Path(sys.argv[2])
    # Nothing but the server under test is to be asked.
    os.environ.update({"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "OPENAI_API_KEY": "none"})
    for client in (of_openai, of_litellm, of_langchain):
        for distribution, call, ask in client(address, picture):
            said = {"client": f"{distribution} {importlib.metadata.version(distribution)}", "call": call}
            try:
                said |= what_came(ask())
            except Exception as error:
                said |= {"error": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
