"""What tells one dataset version, and the work behind it, from others: the same card and ingest find what is made already."""

import hashlib

from pangu.data.card import Card
from pangu.data.prepare.upscale import weights_digest

CODE_VERSION = 5
"""Raise it whenever the same card and ingest would give other rows."""


def keys_of(card: Card, ingest_id: str, code_version: object = CODE_VERSION) -> tuple[str, str]:
    """The key of a version, and that of the work behind it: what any of card, images, code and upscaler changes.

    Raises:
        UserError: the weights of the card's upscaler cannot be read.
    """
    made_by = f"{ingest_id} {code_version}{weights_digest(card)}"
    digests = card.digest(), card.work_digest()
    key, work = (hashlib.sha256(f"{digest} {made_by}".encode()).hexdigest()[:16] for digest in digests)
    return key, work
