"""`python -m infra.site.reference FOLDER`: the pages of the reference that come from the code itself, as Markdown.

Runs where the package is installed: commands come from the Typer application, keys from the pydantic models, requests from the
OpenAPI document of the server. Docstrings are read without an import, when the site is built.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.site.schema_tables import cell, of_properties, of_schema

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "pangu", "pangu.config", "pangu.data", "pangu.data.ingest", "pangu.data.prepare", "pangu.data.table", "pangu.data.encode",
    "pangu.data.rows", "pangu.diffusion", "pangu.sampling", "pangu.models", "pangu.models.families", "pangu.train",
    "pangu.pipelines", "pangu.pipelines.coop", "pangu.pipelines.coop.adapters", "pangu.evaluate", "pangu.gate", "pangu.planning",
    "pangu.registry", "pangu.exchange", "pangu.serve",
)  # fmt: skip
"""Whose docstrings the site shows: what is imported by others, or what a contributor reads first."""


def commands() -> str:
    """Every `pangu` command with its arguments and options."""
    import typer

    from pangu.cli import GROUPS, whole

    group: Any = typer.main.get_command(whole())
    parts = ["# Commands\n\n`pangu COMMAND --help` says the same in a terminal.\n"]
    for title, names in GROUPS.items():
        parts += [
            f"## {title}\n",
            *(part for name in names for part in _command(f"pangu {name}", group.commands[name])),
        ]
    return "\n".join(parts)


def _command(path: str, command: Any) -> Iterator[str]:
    nested = getattr(command, "commands", {})
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join([path, *(_shown(each) for each in arguments)])
    yield f"### {path} {{ #{path.replace(' ', '-')} }}\n\n{cell(command.help or '', lines=True)}\n"
    if not nested:
        yield f"```text\n{usage}{' [OPTIONS]' if len(command.params) > len(arguments) else ''}\n```\n"
    shown = [each for each in command.params if each.name != "help" and not getattr(each, "hidden", False)]
    if shown:
        yield "| name | meaning | |\n|---|---|---|\n" + "\n".join(_parameter(each) for each in shown) + "\n"
    for name, inner in nested.items():
        yield from _command(f"{path} {name}", inner)


def _shown(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _parameter(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    name = _shown(parameter) if is_argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    has_default = not callable(default) and isinstance(default, str | int | float | Path) and default is not False
    notes = ["required"] if parameter.required else [f"default `{default}`"] if has_default and default != "" else []
    return f"| `{name}` | {cell(getattr(parameter, 'help', None) or '')} | {cell(', '.join(notes))} |"


def card() -> str:
    """Every key of a card."""
    from pangu.data.card import Card

    return of_schema(
        "Keys of a card",
        "Of a YAML file in `datasets/`; what they are for, and examples: [Cards](../cards.md). Unknown keys are refused.",
        Card.model_json_schema(),
    )


def recipes() -> str:
    """The recipes of the package, and every key of one."""
    from pangu import recipes as module
    from pangu.config import Recipe

    rows = [
        f"| `{name}` | {cell(' '.join((inspect.getdoc(function) or '').split()))} |"
        for name, function in module.RECIPES.items()
    ]
    listed = "## The recipes\n\n| name | |\n|---|---|\n" + "\n".join(rows) + "\n"
    said = "`pangu recipes NAME` prints one; a copy of it, changed, is a recipe, too: [Training](../training.md)."
    return of_schema("Recipes", f"{said}\n\n{listed}", Recipe.model_json_schema())


def settings() -> str:
    """Every key of the server's settings."""
    from pangu.serve.settings import ServeSettings

    return of_schema(
        "Settings of the server",
        "The JSON file that `--settings` of `pangu serve` and `pangu deploy` takes: [Serving](../serving.md).",
        ServeSettings.model_json_schema(),
    )


def http() -> str:
    """The HTTP interface, from the OpenAPI document that a running server shows at `/openapi.json`."""
    from pangu.serve.settings import ServeSettings
    from pangu.serve.standalone import standalone_api

    document = standalone_api(ROOT / "pangu/assets/starter_pair", ServeSettings()).openapi()
    said = (
        "A running server shows the same at `/docs` and `/openapi.json`. What each is for: [Serving](../serving.md).\n"
    )
    parts = ["# HTTP\n", said]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += [f"## {method.upper()} {path}\n", *_operation(operation)]
    schemas = document["components"]["schemas"]
    parts += ["## Bodies\n", *(part for name, schema in schemas.items() for part in of_properties(name, schema))]
    return "\n".join(parts)


def _operation(operation: dict[str, Any]) -> Iterator[str]:
    yield cell(operation.get("description") or operation.get("summary", ""), lines=True) + "\n"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        reference = schema.get("$ref", "").rpartition("/")[2]
        if reference:
            yield f"Body, `{kind}`: [{reference}](#{reference.lower()})\n"
        else:
            yield from of_properties("", schema, f"Body, `{kind}`")
    answers = []
    for status, answer in operation.get("responses", {}).items():
        named = (
            answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
        )
        body = f"[{named}](#{named.lower()})" if named else ", ".join(f"`{kind}`" for kind in answer.get("content", {}))
        answers.append(f"| {status} | {cell(answer.get('description', ''))} | {body} |")
    yield "| answer | | |\n|---|---|---|\n" + "\n".join(answers) + "\n"


def package(name: str) -> str:
    """The page of one package: each of its modules, by docstrings; mkdocstrings fills it in."""
    folder = ROOT / name.replace(".", "/")
    modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return f"---\nsearch:\n  boost: 0.5\n---\n# {name}\n\n" + "\n".join(f"::: {name}.{module}\n" for module in modules)


def pages() -> dict[str, str]:
    """Place of each page -> its Markdown."""
    written = {
        "commands.md": commands(), "card.md": card(), "recipes.md": recipes(), "settings.md": settings(), "http.md": http(),
    }  # fmt: skip
    return written | {f"python/{name}.md": package(name) for name in PACKAGES}


if __name__ == "__main__":
    for place, text in pages().items():
        path = Path(sys.argv[1]) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
