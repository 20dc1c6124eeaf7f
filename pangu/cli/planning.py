"""`pangu plan` and `pangu calibrate`: what a run will need, from figures measured on this installation."""

from pathlib import Path
from typing import Annotated

import typer

from pangu.cli.common import ResultOption


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(plan)
    app.command()(calibrate)


def plan(
    card: Annotated[str, typer.Option(help="A dataset card: a path, or the name of a file in datasets/.")],
    cluster: Annotated[Path, typer.Option(help="YAML file of machines, prices and corpus; see infra/clusters.")],
    recipe: Annotated[str, typer.Option(help="Which recipe.")] = "demo",
    memory_gib: Annotated[
        float | None, typer.Option(min=0.001, help="Memory of a device, GiB; in the place of the cluster's own.")
    ] = None,
    result: ResultOption = None,
) -> None:
    """Rows, bytes, core- and device-hours, wall-clock, cost and memory of every stage, before anything is started.

    Refuses a training that a device has no room for, and names the switch that helps.
    """
    from pangu.data.card import load_card
    from pangu.planning.calibrate import with_trainings
    from pangu.planning.cluster_spec import load_spec
    from pangu.planning.figures import Figures
    from pangu.planning.footprint import check_fits, footprints
    from pangu.planning.mixed_work import mixture_work
    from pangu.planning.plan import make_plan
    from pangu.planning.table import error_line, plan_table
    from pangu.planning.workload import known_corpus, merged
    from pangu.recipes import recipe as named
    from pangu.storage import Home, write_atomically

    home, read, spec = Home.from_environment(), load_card(card), load_spec(cluster)
    figures = with_trainings(Figures.load(home), home)
    corpus = merged(spec.corpus, known_corpus(read, home))
    asked = named(recipe)
    memory = footprints(asked)
    room = memory_gib or (spec.cluster.device.memory_gib if spec.cluster.device else None)
    if room is not None:
        check_fits(asked, memory, room)
    work, mixture = mixture_work(read, asked, corpus, home)
    made = make_plan(work, figures, spec.cluster, corpus.sources, memory, mixture)
    if result is not None:
        write_atomically(result, made.model_dump_json(indent=2).encode())
    print(plan_table(made))
    print(error_line(figures))


def calibrate(result: ResultOption = None) -> None:
    """Measure this installation with small real work (a minute of a free core), and keep the figures for `pangu plan`."""
    from pangu.planning.calibrate import calibrate as run
    from pangu.planning.table import figures_table
    from pangu.progress import print_progress
    from pangu.storage import Home, write_atomically

    figures = run(Home.from_environment(), print_progress)
    if result is not None:
        write_atomically(result, figures.model_dump_json(indent=2).encode())
    print(figures_table(figures))
