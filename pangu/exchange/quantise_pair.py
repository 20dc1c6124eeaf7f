"""`pangu quantise`: a pair of another one, some halves of which keep their weights in fewer bits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pangu.config import Role
from pangu.contract import Quantised
from pangu.errors import UserError
from pangu.exchange.import_pair import NAME
from pangu.exchange.places import pair_folder
from pangu.models.denoisers import load_denoiser
from pangu.models.inner_tensors import inner_tensors
from pangu.models.quantised import check_kind
from pangu.models.whole import is_whole_pipeline
from pangu.pipelines.assemble import save_pair
from pangu.pipelines.experts_pipeline import load_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.registry.fetch import pair_contracts
from pangu.storage import Home


class QuantisedPair(BaseModel):
    """What `pangu quantise` made. bytes_before, bytes_after: of the weights of its quantised halves, loaded in fp32."""

    model_config = ConfigDict(frozen=True)

    name: str
    pair: str
    quantised: dict[Role, Quantised]
    bytes_before: int
    bytes_after: int
    already_done: bool = Field(False, description="The pair was there, with these halves quantised so")


def quantise_pair(
    source: str, name: str, home: Home, kind: Quantised = "int8", halves: Sequence[Role] = ()
) -> QuantisedPair:
    """Quantise `halves`, or all, of the pair at `source`: the pair `name` of the home, which appears whole or not at all.

    source: a folder, what a pair is called in the home, a registered one, or 'embedded'.

    Raises:
        UserError: no such pair or half, one that is quantised already, a kind that this device or installation lacks, or another
            pair of that name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name of a pair; take letters, digits, dots, hyphens and underscores.")
    check_kind(kind)
    place, pair = _loaded(source, home)
    unknown = [role for role in halves if role not in pair.roles]
    if unknown:
        raise UserError(f"{source} has no {unknown[0]} half; its halves are {', '.join(pair.roles)}.")
    chosen = [role for role in pair.roles if role in (halves or pair.roles)]
    contracts = {
        role: pair.contract(role).model_copy(update={"quantised": kind} if role in chosen else {})
        for role in pair.roles
    }
    folder = home.pair(name)
    done = QuantisedPair(
        name=name,
        pair=str(folder),
        quantised=dict.fromkeys(chosen, kind),
        bytes_before=_weights(pair, chosen),
        bytes_after=0,
    )
    if folder.exists():
        if is_whole_pipeline(folder) and pair_contracts(folder) == contracts:
            made = load_pair(folder)
            return done.model_copy(update={"bytes_after": _weights(made, chosen), "already_done": True})
        raise UserError(f"There is another pair '{name}' in {folder.parent} already; choose another name.")
    pair.register_modules(**{role: load_denoiser(place, role, kind) for role in chosen})
    pair.register_to_config(contracts={role: one.model_dump(mode="json") for role, one in contracts.items()})
    fresh = folder.with_name(f".{name}.new")
    save_pair(pair, fresh)
    for role, contract in contracts.items():
        contract.save(fresh / role)
    fresh.rename(folder)
    return done.model_copy(update={"bytes_after": _weights(pair, chosen)})


def _loaded(source: str, home: Home) -> tuple[Path, PanGuDrawPipeline]:
    """(where its halves lie, the pair)."""
    if source == "embedded":
        from pangu.models.embedded import embedded_pair
        from pangu.starter.pair import starter_pair

        return embedded_pair()[0], starter_pair()
    place = pair_folder(source, home, "'embedded', or ")
    return place, load_pair(place)


def _weights(pair: Any, halves: Sequence[Role]) -> int:
    every = (parameter for role in halves for parameter in pair.generator(role).parameters())
    return sum(part.nbytes for parameter in every for _, part in inner_tensors(parameter.data))
