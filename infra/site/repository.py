"""Which files of the repository are pages of the site, and where a link from one to another leads there."""

import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTSIDE_DOCS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "datasets/README.md": "cards.md",
    "pangu/assets/README.md": "weights.md",
}
"""Documents that stand where a forge expects them -> their page; those of docs/ keep their name."""
SHOWN = {
    "prefect.yaml": "yaml",
    "pangu/recipes.py": "python",
    "datasets/url_table.yaml.example": "yaml",
    "CITATION.cff": "yaml",
}
"""Files that documents link to and that are no documents -> the language they are shown in."""
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")


def page_of(path: str) -> str | None:
    """The page that shows a file of the repository, or the picture; None: the site has none."""
    if path in OUTSIDE_DOCS:
        return OUTSIDE_DOCS[path]
    if path in SHOWN:
        return f"files/{path}.md"
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return None


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Markdown with every line outside fenced code changed."""
    fence, lines = "", []
    for line in markdown.split("\n"):
        opening = FENCE.match(line)
        if opening and not fence:
            fence = opening[1]
        elif opening and line.strip().startswith(fence):
            fence = ""
        elif not fence:
            line = change(line)
        lines.append(line)
    return "\n".join(lines)


def relink(markdown: str, source: str, page: str, lost: Callable[[str], None]) -> str:
    """Links between files of the repository as links between pages.

    source: the file, from the root. page: its own place in the site. lost: called with every link that leads nowhere.
    """

    def target(link: re.Match[str]) -> str:
        path, hash_, anchor = link[2].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        found = page_of(named) if (ROOT / named).is_file() else None
        if found is None:
            lost(link[2])
            return link[0]
        return f"{link[1]}{os.path.relpath(found, posixpath.dirname(page) or '.')}{hash_}{anchor}{link[3]}"

    return outside_code(markdown, lambda line: LINK.sub(target, line))


def spaced(markdown: str) -> str:
    """Blank lines where forges need none and Python's Markdown does: before lists and tables that follow a line of text."""
    before = ""

    def change(line: str) -> str:
        nonlocal before
        starts = re.match(r"([-*]|\d+\.) |\|", line)
        goes_on = re.match(r"\s|([-*]|\d+\.) |\||#|$", before)
        changed = f"\n{line}" if starts and not goes_on else line
        before = line
        return changed

    return outside_code(markdown, change)
