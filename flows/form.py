"""What every form of the dashboard shares: unknown fields are refused, and fields are drawn in an order that the schema says."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Source = Annotated[str, Field(min_length=1, max_length=1000)]


def _placed(schema: dict[str, Any], form: type["Form"]) -> None:
    """Number the fields: `first` ones, and the rest in the order of the class."""
    own = [*form.first, *(name for name in schema["properties"] if name not in form.first)]
    for position, name in enumerate(own):
        schema["properties"][name]["position"] = position


class Form(BaseModel):
    """A flow's parameters, or a group of them.

    first: fields that are drawn before inherited ones.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_placed)
    first: ClassVar[tuple[str, ...]] = ()
