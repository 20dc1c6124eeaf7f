"""What a licence allows, read from its name: words, not legal advice."""

import re
from collections.abc import Iterable

from pangu.errors import UserError

FORBIDS = re.compile(
    r"all rights reserved|proprietary|confidential|internal use|not for (re)?distribution|no[- ]?(re)?distribution|"
    r"no[- ]?derivatives|\bND\b|unknown|not asked",
    re.IGNORECASE,
)
"""Words of licences under which nothing may be given to others, or of none at all."""
KNOWN = re.compile(
    r"(cc[- ]by(?:[- ](?:nc|sa))*[- ]\d\.\d|cc0[- ]1\.0|apache[- ]2\.0|mit|openrail(?:\+\+)?|bsd-3-clause)",
    re.IGNORECASE,
)


def check_publishable(names: Iterable[str]) -> None:
    """Raises UserError for the first licence that does not allow to publish."""
    for name in names:
        if FORBIDS.search(name):
            raise UserError(f"The licence '{name}' does not allow to publish what was made under it.")


def hub_licence(name: str) -> str:
    """The hub's identifier of a licence; "other" for one that it does not know."""
    found = KNOWN.fullmatch(name.strip())
    return re.sub(r"[- ]+", "-", found.group().lower()) if found else "other"


def hub_fields(name: str, url: str = "") -> dict[str, object]:
    """What the head of a card says of a licence."""
    identifier = hub_licence(name)
    fields: dict[str, object] = {"license": identifier}
    if identifier == "other":
        fields["license_name"] = name
    if url:
        fields["license_link"] = url
    return fields
