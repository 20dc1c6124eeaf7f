"""The fenced blocks of the documents that people read: where each stands, in which language, and why one is not run."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "datasets/*.md", "pangu/assets/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(
    r"(?:^[ \t]*<!-- not run: (?P<reason>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block. language: that of the fence; untagged ones that show a command are `sh`, and other untagged ones `text`.

    reason: of the comment before it that says why it is not run; "" where there is none.
    """

    document: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    """In the order of the page."""
    written = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(written):
        text = re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
        language = fence["language"] or ("sh" if text.startswith("pangu ") else "text")
        line = written.count("\n", 0, fence.start("language")) + 1
        found.append(Block(document, line, language, text, fence["reason"] or ""))
    return found


def every(language: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks_of(document) if block.language == language]
