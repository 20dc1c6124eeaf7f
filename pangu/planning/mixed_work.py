"""What a mixture adds to a plan: the work of its further datasets, and how often each row of each is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from pangu.config import Recipe
from pangu.data.card import Card, load_card
from pangu.errors import UserError
from pangu.planning.cluster_spec import Corpus
from pangu.planning.plan import SeenRows, Work
from pangu.planning.workload import count_work, known_corpus
from pangu.storage import Home


@dataclass(frozen=True)
class PartWork:
    """One dataset of a training: what has to be done for it, and how often each of its rows appears in an epoch."""

    dataset: str
    work: Work
    weight: float


def mixture_work(card: Card, recipe: Recipe, corpus: Corpus, home: Home) -> tuple[Work, tuple[SeenRows, ...]]:
    """What has to be done for a card and the further datasets that its recipe names, of which this installation knows how many
    rows they have; and, of a mixture, how often the rows of each are seen.

    Raises:
        UserError: a further dataset has no card, or nobody knows its rows and how large they are.
    """
    parts = [PartWork(card.name, count_work(card, recipe, corpus, home), recipe.mixture.weight)]
    for one in recipe.mixture.also:
        try:
            other = load_card(one.dataset)
            work = count_work(other, recipe, known_corpus(other, home), home)
        except UserError as error:
            raise UserError(f"Part '{one.dataset}' of the mixture cannot be counted: {error}") from error
        parts.append(PartWork(one.dataset, work, one.weight))
    if len(parts) == 1:
        return parts[0].work, ()
    return together([part.work for part in parts]), seen_rows(parts)


def together(works: Sequence[Work]) -> Work:
    """The work of several datasets for one training: sums of rows, and means of what is said of one of them."""

    def total(name: str) -> int:
        return sum(getattr(work, name) for work in works)

    def mean(name: str, of: str) -> float:
        counted = sum(getattr(work, name) * getattr(work, of) for work in works)
        return counted / total(of) if total(of) else getattr(works[0], name)

    means = {
        "image_bytes": "ok", "megapixels": "ok", "row_bytes": "rows", "latent_bytes": "rows", "encode_operations": "rows",
        "upscaled_megapixels": "upscaled",
    }  # fmt: skip
    changed: dict[str, int | float] = {name: total(name) for name in ("listed", "ok", "rows", "upscaled")}
    return works[0].model_copy(update=changed | {name: mean(name, of) for name, of in means.items()})


def seen_rows(parts: Sequence[PartWork]) -> tuple[SeenRows, ...]:
    """Of each dataset the share of what is drawn, and how often each of its rows is, of each job."""
    drawn = sum(part.weight * part.work.rows for part in parts)
    return tuple(
        SeenRows(
            dataset=part.dataset,
            rows=part.work.rows,
            weight=part.weight,
            share=part.weight * part.work.rows / drawn,
            times={role: job.steps * job.batch_size * part.weight / drawn for role, job in part.work.jobs.items()},
        )
        for part in parts
    )
