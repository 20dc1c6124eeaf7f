"""What every form of the dashboard shares: which fields stand open, in which order, and what an empty one means.

Prefect draws a form from the JSON schema of a flow's parameters. So the schema is a view of the model: its fields stay as flows
and stored schedules name them, while a person sees a few, and a button that opens the rest.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pangu.forms import MORE, flat

Source = Annotated[str, Field(min_length=1, max_length=1000)]
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern")
MORE_WORDS = "Add item opens everything else that can be chosen; what is left empty is as the recipe says"


def _view(schema: dict[str, Any], form: type["Form"]) -> None:
    """Turn the schema of a form into what is drawn: no empty choices, numbered fields, the rest folded."""
    required = set(schema.get("required", ()))
    fields = form.drawn({name: _drawn(field, name in required) for name, field in schema["properties"].items()})
    own = [*(name for name in form.first if name in fields), *(name for name in fields if name not in form.first)]
    if not form.shown:
        schema["properties"] = _numbered({name: fields[name] for name in own})
        return
    hidden = [name for name in own if name not in form.shown]
    folded = {**{name: fields[name] for name in form.shown}, MORE: _more({name: fields[name] for name in hidden})}
    schema["properties"] = _numbered(folded)
    # Schedules and automations of before, and whatever asks for a run without a form, name fields flat.
    schema["patternProperties"] = {f"^{name}$": fields[name] for name in hidden} | form.former()


def _drawn(field: dict[str, Any], is_required: bool) -> dict[str, Any]:
    """A field that may be left empty is drawn as one input, and not as a choice between a number and None.

    Prefect's server takes `null` for a field that has no default and need not be there, which is what a cleared input sends.
    """
    choices = [one for one in field.get("anyOf", ()) if one.get("type") != "null"]
    if len(choices) == 1:
        field = {**{name: value for name, value in field.items() if name != "anyOf"}, **choices[0]}
    if "enum" in field or field.get("type") == "boolean":
        return field
    if not is_required:
        field = {name: value for name, value in field.items() if name not in ("default", "minLength")}
        if pattern := field.get("pattern"):
            field["pattern"] = f"^$|{pattern}"
    return _bounded(field)


def _bounded(field: dict[str, Any]) -> dict[str, Any]:
    """With its bounds in `allOf`: the dashboard asks the server what is wrong by a copy of the schema that lacks bounds which
    stand elsewhere; a value out of them would be refused, but not marked."""
    bounds = {name: value for name, value in field.items() if name in BOUNDS}
    rest = {name: value for name, value in field.items() if name not in BOUNDS}
    return {**rest, "allOf": [bounds]} if bounds else field


def _folded(group: dict[str, Any], title: str, description: str) -> dict[str, Any]:
    """A group of fields as a list of at most one: Prefect draws an empty list as a button that adds it.

    It has no other way to fold, of which the server still says which field is wrong: of a choice it says that nothing holds.
    """
    return {
        "title": title,
        "description": description,
        "type": "array",
        "default": [],
        "maxItems": 1,
        "items": group,
    }


def _more(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that do not stand open, groups among them folded once more."""
    drawn = {
        name: _folded({"$ref": field["$ref"]}, field.get("title") or name.capitalize(), field["description"])
        if "$ref" in field
        else field
        for name, field in fields.items()
    }
    group = {"type": "object", "title": "More", "properties": _numbered(drawn), "additionalProperties": False}
    return _folded(group, "More", MORE_WORDS)


def _numbered(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: {**field, "position": place} for place, (name, field) in enumerate(fields.items())}


class Form(BaseModel):
    """A flow's parameters, or a group of them. An empty field (nothing, null or "") means its default.

    first: fields that are drawn before the others.
    shown: of a flow's own form, the fields that stand open; the others are folded. Without any, all stand open.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_view)
    first: ClassVar[tuple[str, ...]] = ()
    shown: ClassVar[tuple[str, ...]] = ()

    @property
    def deed(self) -> str:
        """What a run of the flow does, in a few words."""
        return ""

    @classmethod
    def drawn(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The schemas of the fields as they are drawn, by the names that the form sends."""
        return fields

    @classmethod
    def former(cls) -> dict[str, Any]:
        """Patterns of names of before that are still taken, with their schemas."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, data: Any) -> Any:
        return flat(data) if isinstance(data, dict) else data

    @model_serializer(mode="wrap")
    def _as_filled_in(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of a flow's own form what was filled in: Prefect writes it into the schema as the default of the whole."""
        found: dict[str, Any] = serialize(self)
        return {name: found[name] for name in found if name in self.model_fields_set} if self.shown else found
