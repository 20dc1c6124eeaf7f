"""Whether a request was sent by a page of another site: browsers say so of each (https://www.w3.org/TR/fetch-metadata/)."""

from collections.abc import Mapping

OWN = ("same-origin", "none")
"""Of our own pages, and of an address that a person typed. Another port of the same name is `same-site`, and not ours."""


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that another site's page sent it. Clients that are no browsers say nothing.

    headers: by lower-case names.
    """
    return headers.get("sec-fetch-site", "none") not in OWN
