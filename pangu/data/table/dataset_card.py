"""README.md of an exported version: a head for Hugging Face's programs, and licence, splits and statistics for people."""

from collections.abc import Mapping

import yaml

from pangu.data.captions import LANGUAGES
from pangu.data.card import Licence, load_card
from pangu.data.licences import check_publishable, hub_fields
from pangu.data.table.delta import read_rows
from pangu.data.table.versions import VersionFacts, show
from pangu.errors import UserError
from pangu.storage import Home

README = "README.md"
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""Rows below which the hub files a dataset under a category."""
LARGEST = "n>10M"


def licence_of_data(home: Home, name: str, version: int, named: str | None = None) -> Licence:
    """The licence that is named, or that of the card, or the one that all rows have.

    Raises:
        UserError: nobody says one, rows have several, or one of them does not allow to publish.
    """
    rows = [
        text for text in read_rows(home, name, version, columns=["license"])["license"].unique().to_pylist() if text
    ]
    try:
        card: Licence | None = load_card(name).licence
    except UserError:
        card = None
    chosen = Licence(name=named) if named else card or (Licence(name=rows[0]) if len(rows) == 1 else None)
    if chosen is None:
        raise UserError(f"Dataset '{name}' has no card here, and its rows {len(rows)} licences; name one by --licence.")
    check_publishable([chosen.name, *rows])
    return chosen


def dataset_card(home: Home, name: str, version: int, licence: Licence | None) -> str:
    """The text for one version; licence: None where nobody says one."""
    facts = show(home, name, version)
    captions = read_rows(home, name, version, columns=[f"caption_{language}" for language in LANGUAGES])
    captioned: dict[str, int] = {one: captions.num_rows - captions[f"caption_{one}"].null_count for one in LANGUAGES}
    splits = facts.counts["split"]
    head = {
        "pretty_name": name,
        **(hub_fields(licence.name, licence.url) if licence else {}),
        "language": [language for language, rows in captioned.items() if rows],
        "task_categories": ["text-to-image"],
        "size_categories": [next((size for below, size in SIZES if facts.rows < below), LARGEST)],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in sorted(splits)],
            }
        ],
    }
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}
---

# {name}

Version {version} of the dataset `{name}`: {facts.rows} images with captions, in every column that PanGu keeps; missing is null.

```python
from datasets import load_dataset

load_dataset("FOLDER or OWNER/NAME", split="{min(splits)}")[0]["image"]  # a picture
```

## Splits

{_table("split", splits)}

## Captions

{_table("language", captioned)}

## Statistics

| column | 5 % | half | 95 % |
|---|---|---|---|
{_quantiles(facts)}

{_table("upscaled", facts.counts["upscaled"])}

## Licence

{_licence_said(licence)}

{_table("licence of the image", facts.counts["license"])}
"""


def _table(what: str, counts: Mapping[str, int]) -> str:
    return "\n".join([f"| {what} | rows |", "|---|---|", *(f"| {name} | {rows} |" for name, rows in counts.items())])


def _quantiles(facts: VersionFacts) -> str:
    return "\n".join(
        f"| {name} | {low:g} | {middle:g} | {high:g} |" for name, (low, middle, high) in facts.quantiles.items()
    )


def _licence_said(licence: Licence | None) -> str:
    if licence is None:
        return "Nobody named one for the whole; see the column `license`."
    return f"{licence.name}{f' ({licence.url})' if licence.url else ''}\n\n{licence.attribution}".strip()
