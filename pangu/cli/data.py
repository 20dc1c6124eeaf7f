"""`pangu ingest`, `prepare`, `origin` and `cards check`: from a source to a dataset."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from pangu.cli.common import CardArgument, IngestIdOption, JsonOption, ResultOption, finish
from pangu.errors import UserError
from pangu.names import LATEST, ingests, resolve
from pangu.progress import print_progress
from pangu.storage import Home


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(ingest)
    app.command()(prepare)
    app.command()(example_server)
    cards = typer.Typer(help="Look at dataset cards.", no_args_is_help=True)
    cards.callback()(lambda: None)
    cards.command("check")(check_card)
    app.add_typer(cards, name="cards")


def ingest(
    card: CardArgument,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try failures that may pass again, waiting as long as their reason asks.")
    ] = False,
    on_ray: Annotated[
        bool, typer.Option("--on-ray", help="On every node of the cluster that RAY_ADDRESS names, one process each.")
    ] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the images that a card's source lists, and account for every row; what an earlier ingest has is not fetched again."""
    from pangu.data.card import load_card
    from pangu.data.ingest.stage import ingest

    outcome = ingest(load_card(card), Home.from_environment(), print_progress, retry, on_ray=on_ray)
    finish(outcome, result, as_json)


def prepare(
    card: CardArgument,
    ingest_id: IngestIdOption = LATEST,
    threads: Annotated[int, typer.Option(min=1, help="Threads for upscaling one image.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make rows, or Ray actors.")] = 1,
    on_ray: Annotated[bool, typer.Option("--on-ray", help="Workers in the cluster that RAY_ADDRESS names.")] = False,
    result: ResultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode, score, upscale what is small, filter, drop duplicates, and commit one version of the dataset."""
    from pangu.data.card import load_card
    from pangu.data.prepare.stage import WorkerSettings, prepare

    home, read, execution = Home.from_environment(), load_card(card), WorkerSettings(threads, workers, on_ray)
    chosen = resolve(ingest_id, ingests(home, read.name), "ingest", f"pangu ingest {card}")
    finish(prepare(read, chosen, home, print_progress, execution), result, as_json)


def example_server(
    write_table: Annotated[
        Path | None, typer.Option(help="Where to write the URL table; by default where the card reads it.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: the port of the earlier table where it is free, or else any.")
    ] = 0,
    count: Annotated[int, typer.Option(min=2, help="How many drawings to serve.")] = 420,
    everything: Annotated[
        bool, typer.Option("--everything", help="All drawings in full size, for the card openmoji_all.")
    ] = False,
    chalk: Annotated[bool, typer.Option("--chalk", help="In chalk, for the card openmoji_chalk.")] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="All drawings in full size, as outlines and flat, too, for the card openmoji_layers."
        ),
    ] = False,
    artists: Annotated[
        Path | None,
        typer.Option(
            help="A node_modules folder with the packages of the other artists, whose drawings are served too, in full size, "
            "with keywords: for the card emoji_artists."
        ),
    ] = None,
) -> None:
    """Serve drawings of emoji and a dozen broken URLs on loopback, until SIGTERM or Ctrl-C."""
    from pangu.data.card import load_card
    from pangu.data.example.origin import BROKEN, open_origin

    if sum((artists is not None, chalk, layers)) > 1:
        raise UserError("The origin serves one of --artists, --chalk and --layers.")
    everything = everything or layers
    which = {"openmoji_chalk": chalk, "emoji_artists": artists, "openmoji_layers": layers, "openmoji_all": everything}
    named = next((name for name, asked in which.items() if asked), "openmoji")
    card = load_card(named)
    table = write_table or Path(card.source_uri(Home.from_environment()))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    small_share = 0.0 if everything or artists else 0.5
    server = open_origin(None if everything else count, port, table, small_share, artists, chalk, layers)
    server.start()
    server.write_table(table)
    listed = len(server.rows())
    facts = {"url": server.url, "table": str(table.absolute()), "images": listed - len(BROKEN), "listed": listed}
    print(json.dumps({**facts, "pid": os.getpid()}), flush=True)
    stop.wait()
    server.close()


def check_card(card: CardArgument) -> None:
    """Say whether a card and its source can be read, and show the first ten rows as ingest would read them."""
    from pangu.data.captions import LANGUAGES
    from pangu.data.card import load_card
    from pangu.data.ingest.any_source import read_source
    from pangu.data.ingest.stage import check_source

    parsed, home = load_card(card), Home.from_environment()
    listed = read_source(parsed, home)
    refused = check_source(parsed, listed, home)
    for row in listed.slice(0, 10).to_pylist():
        print(json.dumps({**row, "verdict": refused.get(row["row"], "would be tried")}, ensure_ascii=False))
    mute = sum(
        not (en or zh) for en, zh in zip(*(listed[f"caption_{name}"].to_pylist() for name in LANGUAGES), strict=True)
    )
    counts = f"{len(refused)} of them refused before any download, {mute} without a caption"
    print(f"{parsed.name}: {listed.num_rows} rows, {counts}")
