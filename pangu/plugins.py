"""What other packages bring under a name, as Python's entry points."""

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from pangu.errors import UserError


def brought(group: str, what: str, name: str, own: Iterable[str]) -> Any:
    """The object that the entry point `name` of a group names. what: for sentences; own: the names that the package itself knows.

    Raises:
        UserError: there is none, or it can not be imported.
    """
    known = {point.name: point for point in entry_points(group=group)}
    if name not in known:
        raise UserError(
            f"There is no {what} '{name}'; known are {', '.join([*own, *sorted(known)])}. A package brings one as an entry point "
            f"of the group {group}."
        )
    try:
        return known[name].load()
    except Exception as error:
        raise UserError(f"The {what} '{name}' ({known[name].value}) can not be imported: {error}.") from error
