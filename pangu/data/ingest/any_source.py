"""What a card's source lists, be it a table of URLs or images that are here already."""

from collections.abc import Iterator

import pyarrow as pa

from pangu.data.card import Card
from pangu.data.ingest.local_sources import LocalImages, local_images
from pangu.data.ingest.source import each_table, expand, listings
from pangu.storage import Home


def read_source(card: Card, home: Home) -> pa.Table:
    """The listed rows in the source's order, schema `LISTED`; captions it does not have are empty strings.

    Raises:
        UserError: the source is missing, unreadable, empty, or lacks a column that the card names.
    """
    return pa.concat_tables(source_rows(card, home, local_images(card, home)))


def source_rows(card: Card, home: Home, local: LocalImages | None) -> Iterator[pa.Table]:
    """As `read_source`, some rows at a time. local: the images of the card, if its source holds them.

    Raises:
        UserError: as of `read_source`.
    """
    uri = card.source_uri(home)
    if local is not None:
        return listings(card, uri, local.tables())
    needed = [name for name in card.columns.model_dump(exclude={"image"}).values() if name]
    return listings(card, uri, each_table(card, expand(card, uri), needed))
