"""Fields for experts between structure and texture, by their names, of whatever is said of each expert."""

from typing import Generic, TypeVar

from pydantic import BaseModel

from pangu.config.tree import MIDDLE_ROLES, Role

Value = TypeVar("Value")


class Between(BaseModel, Generic[Value]):
    """What is said of experts between structure and texture, where a pair has such; a part of other models."""

    middle: Value | None = None
    middle_2: Value | None = None
    middle_3: Value | None = None
    middle_4: Value | None = None
    middle_5: Value | None = None
    middle_6: Value | None = None
    middle_7: Value | None = None
    middle_8: Value | None = None

    @property
    def between(self) -> dict[Role, Value]:
        """Expert -> what is said of it, the noisiest first."""
        named = {role: getattr(self, role) for role in MIDDLE_ROLES}
        return {role: value for role, value in named.items() if value is not None}
