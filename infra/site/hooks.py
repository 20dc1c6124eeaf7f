"""What MkDocs calls while it builds the site: pages from outside docs/, links between them, diagrams, generated pages."""

import logging
import re
from typing import Any

from mkdocs.structure.files import File, Files

from infra.site import flowchart, notebook_page
from infra.site.repository import OUTSIDE_DOCS, ROOT, SHOWN, page_of, relink, spaced

log = logging.getLogger("mkdocs.hooks.pangu")
GENERATED = ROOT / "var/site/reference"
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_sources: dict[str, str] = {}
"""Page -> the file of the repository that it shows."""


def on_startup(**_: Any) -> None:
    """The words that Chinese is divided into for the search are loaded without sentences about it."""
    import jieba

    jieba.setLogLevel(logging.WARNING)


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    _sources.update({file.src_uri: f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md")})
    for path, page in OUTSIDE_DOCS.items():
        _add(files, config, path, page, (ROOT / path).read_text(encoding="utf-8"))
    for path, language in SHOWN.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        shown = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language}\n{text}\n````\n"
        files.append(File.generated(config, str(page_of(path)), content=shown))
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        path = f"notebooks/{notebook.name}"
        _add(files, config, path, str(page_of(path)), notebook_page.markdown(notebook.read_text(encoding="utf-8")))
    for page in sorted(GENERATED.rglob("*.md")):
        place = f"reference/{page.relative_to(GENERATED).as_posix()}"
        files.append(File.generated(config, place, content=page.read_text(encoding="utf-8")))
    return files


def _add(files: Files, config: Any, path: str, page: str, text: str) -> None:
    files.append(File.generated(config, page, content=text))
    _sources[page] = path


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links, lists and diagrams as this site needs them."""
    own = page.file.src_uri
    source = _sources.get(own)
    if source is None:
        return markdown
    markdown = relink(
        markdown, source, own, lambda link: log.warning("%s links to %s, which no page shows", source, link)
    )
    return MERMAID.sub(lambda found: flowchart.draw(found[1]), spaced(markdown))
