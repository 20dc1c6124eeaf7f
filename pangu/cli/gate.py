"""`pangu gate`: may this pair take the champion's place?"""

from pathlib import Path
from typing import Annotated

import typer

from pangu.cli.common import CardArgument, EncodeIdOption, JsonOption, ResultOption, encode_id_of, finish
from pangu.names import LATEST


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(gate)


def gate(
    card: CardArgument,
    metrics: Annotated[Path, typer.Option(help="The outcome of `pangu evaluate`, as JSON.")],
    encode_id: EncodeIdOption = LATEST,
    recipe: Annotated[str, typer.Option(help="Which recipe's rules.")] = "demo",
    alias: Annotated[str, typer.Option(help="The registered pair to compare with.")] = "champion",
    inception: Annotated[Path | None, typer.Option(help="As given to `pangu evaluate`.")] = None,
    clip: Annotated[str | None, typer.Option(help="As given to `pangu evaluate`.")] = None,
    cn_clip: Annotated[str | None, typer.Option(help="As given to `pangu evaluate`.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if the pair may not pass.")] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare an evaluated pair with the champion by the recipe's rules, prompt by prompt, and say who may serve.

    A first pair is compared with what its training started from."""
    from pangu.data.card import load_card
    from pangu.data.encode.encoded import EncodedManifest
    from pangu.gate import check_pair_at_gate
    from pangu.progress import print_progress
    from pangu.recipes import recipe as named
    from pangu.storage import Home

    home, dataset = Home.from_environment(), load_card(card).name
    encode_id = encode_id_of(home, dataset, encode_id)
    version = EncodedManifest.load(home.encoded(dataset, encode_id)).version
    judges = None
    if inception or clip or cn_clip:
        from pangu.evaluate.metrics import load_judges

        judges = load_judges(inception, clip, cn_clip)
    decision = check_pair_at_gate(metrics, named(recipe), dataset, version, home, judges, print_progress, alias)
    finish(decision, result, as_json)
    if strict and not decision.passed:
        raise typer.Exit(1)
