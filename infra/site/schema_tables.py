"""Tables of a JSON schema as pydantic writes it: a heading and a table for each model, links from one to the other."""

import json
import re
from collections.abc import Iterator
from typing import Any

RANGES = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def of_schema(title: str, said: str, schema: dict[str, Any]) -> str:
    """A page: the root model's table, then those of the models inside it."""
    inner = schema.get("$defs", {})
    parts = [f"# {title}\n", said, *of_properties("The whole", schema)]
    return "\n".join([*parts, *(part for name, each in inner.items() for part in of_properties(name, each))])


def of_properties(name: str, schema: dict[str, Any], caption: str = "") -> Iterator[str]:
    """A heading (none without a name), what the model is for, and its table."""
    if name:
        yield f"\n### {name} {{ #{name.lower().replace(' ', '-')} }}\n"
    if caption:
        yield caption + "\n"
    if schema.get("description"):
        yield cell(schema["description"], lines=True) + "\n"
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"
    properties = schema.get("properties", {})
    if properties:
        required = schema.get("required", ())
        yield "| key | type | default | |\n|---|---|---|---|"
        for key, each in properties.items():
            default = "required" if key in required else _default(each)
            yield f"| `{key}` | {kind(each)} | {default} | {cell(each.get('description', ''))} |"
        yield ""


def kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return " ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(each) for each in schema[several]))
    if schema.get("type") == "array":
        items = [kind(each) for each in schema.get("prefixItems", [])] or [kind(schema.get("items", {}))]
        return f"list of {', '.join(dict.fromkeys(items))}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {kind(values)}" if isinstance(values, dict) and values else "mapping"
    ranges = [f"{sign} {schema[word]:g}" for word, sign in RANGES.items() if word in schema]
    return cell(" ".join([schema.get("type", "anything"), ", ".join(ranges)]).strip())


def _default(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return ""
    text = json.dumps(schema["default"], ensure_ascii=False)
    return cell(f"`{text}`" if len(text) <= 40 else "see there")


def cell(text: str, lines: bool = False) -> str:
    """Text as a cell of a table shows it to the letter; `lines` keeps paragraphs, outside of tables."""
    text = text.strip() if lines else " ".join(text.split())
    parts = re.split(r"(`[^`]*`)", text)
    plain = [re.sub(r"([*\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    parts[::2] = plain
    joined = "".join(parts)
    return joined if lines else joined.replace("|", "\\|")
