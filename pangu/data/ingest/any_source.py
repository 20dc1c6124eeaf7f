"""What a card's source lists, be it a table of URLs or images that are here already."""

import pyarrow as pa

from pangu.data.card import Card
from pangu.data.ingest.local_sources import local_images
from pangu.data.ingest.source import expand, listing, read_tables
from pangu.storage import Home


def read_source(card: Card, home: Home) -> pa.Table:
    """The listed rows in the source's order, schema `LISTED`; captions it does not have are empty strings.

    Raises:
        UserError: the source is missing, unreadable, empty, or lacks a column that the card names.
    """
    uri, local = card.source_uri(home), local_images(card, home)
    if local is not None:
        return listing(card, uri, local.table)
    needed = [name for name in card.columns.model_dump(exclude={"image"}).values() if name]
    return listing(card, uri, read_tables(card, expand(card, uri), needed))
