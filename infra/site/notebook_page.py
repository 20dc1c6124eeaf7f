"""A notebook, with the outputs that it was stored with, as Markdown."""

import json
from collections.abc import Iterator
from typing import Any


def markdown(text: str) -> str:
    """Cells in their order: prose as it is, code in a fence, and what it printed or drew below."""
    return "\n\n".join(part for cell in json.loads(text)["cells"] for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
    elif cell["cell_type"] == "code" and source.strip():
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            yield from _output(output)


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    picture = "".join(data.get("image/png", "")).replace("\n", "")
    if picture:
        yield f'<img class="pangu-output" alt="What the cell above drew" src="data:image/png;base64,{picture}">'
    elif text := "".join(output.get("text", data.get("text/plain", ""))):
        yield f"```text\n{text.rstrip()}\n```"
