"""Commands of the stack: up, down, status, doctor, backup, restore, deployments, demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pangu.cli.next_step import say_first
from pangu.storage import Home

if TYPE_CHECKING:
    from pangu.stack import Stack


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)
    app.command()(backup)
    app.command()(restore)
    app.command()(deployments)
    app.command()(demo)


def up(
    any_ports: Annotated[
        bool, typer.Option("--any-ports", help="Take any free ports, not the customary ones.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            help="'laptop': SQLite and files. 'server': PostgreSQL and object storage. Default: what the home began with."
        ),
    ] = None,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Bring databases of an older version up to date.")] = False,
) -> None:
    """Start Prefect, MLflow, Ray and the pages on this machine, and print their addresses."""
    from pangu.stack import up
    from pangu.stack.profile import as_name

    stack = up(Home.from_environment(), customary_ports=not any_ports, profile=as_name(profile), upgrade=upgrade)
    if stack.console_port:
        print(f"Start here  {_with_key(stack)}")
    print(f"Prefect     {stack.prefect_url}")
    print(f"MLflow      {stack.mlflow_url}")
    print(f"Ray         {stack.ray_dashboard_url}  (its token: {stack.token_path})")
    print(f"Served API  {stack.serve_url}/v1  (after the first deploy)")
    say_first(Home(stack.home))


def _with_key(stack: "Stack") -> str:
    """The address of the pages with the key that lets them do what its owner may; browsers send no part behind a '#'."""
    from pangu.console.console_guard import key_of

    return f"{stack.console_url}/#key={key_of(Home(stack.home))}"


def down() -> None:
    """End everything that `pangu up` started."""
    from pangu.stack import down

    down(Home.from_environment())


def status() -> None:
    """Print each part of the stack with its address and its health; exit code 1 if one does not answer."""
    from pangu.stack import Stack
    from pangu.stack.health import parts

    stack = Stack.require(Home.from_environment())
    healthy = True
    for part in parts(stack):
        answers = part.check(stack)
        healthy = healthy and (answers or part.optional)
        word = "ok" if answers else ("not deployed" if part.optional else "DOES NOT ANSWER")
        address = _with_key(stack) if part.program == "console" else part.address
        print(f"{part.name:15} {word:16} {address}")
    if not healthy:
        raise typer.Exit(1)


def doctor(
    profile: Annotated[
        str | None, typer.Option(help="Look for 'laptop' or 'server'. Default: what the home began with.")
    ] = None,
) -> None:
    """Say what this machine lacks, each with its remedy; exit code 1 if something keeps the stack from working."""
    from pangu.stack.doctor import examine
    from pangu.stack.profile import as_name

    findings = examine(Home.from_environment(), as_name(profile))
    for one in findings:
        print(f"{one.state:8} {one.what:14} {one.found}" + (f"\n{'':24}-> {one.remedy}" if one.remedy else ""))
    if any(one.state == "failure" for one in findings):
        raise typer.Exit(1)


def backup(
    file: Annotated[Path, typer.Argument(help="The tar file to write.")],
    downloads: Annotated[bool, typer.Option("--downloads", help="Keep downloaded images too.")] = False,
) -> None:
    """Keep databases, tables, runs, pairs and settings of the home in one file; the stack may run meanwhile."""
    from pangu.cli.common import finish
    from pangu.stack.backup import backup

    finish(backup(Home.from_environment(), file, downloads), None)


def restore(file: Annotated[Path, typer.Argument(help="What `pangu backup` wrote.")]) -> None:
    """Bring a backup into an empty home."""
    from pangu.cli.common import finish
    from pangu.stack.backup import restore

    finish(restore(file, Home.from_environment()), None)


def deployments() -> None:
    """Tell the Prefect server that PREFECT_API_URL names of our flows: work pool, deployments, automations."""
    import os

    from pangu.errors import UserError
    from pangu.stack.deployments import install
    from pangu.stack.lifecycle import find_project

    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise UserError("PREFECT_API_URL is not set; name a Prefect server, e.g. http://prefect:4200/api.")
    install(find_project(), api, Home.from_environment().logs / "deploy.log")
    print(f"The flows are deployed at {api}.")


def demo(
    recipe: Annotated[str, typer.Option("--recipe", help="Which recipe to train.")] = "demo",
) -> None:
    """Run the main job from nothing: images, dataset, training, release, served pictures; then stop everything."""
    from rich.console import Console

    from pangu.demo.run import demo

    home, console = Home.from_environment(), Console()
    summary = demo(home, recipe, console)
    console.print(
        f"[green]Done[/] in {summary.total_seconds:.0f} s, {summary.peak_rss_mb:.0f} MB at most. In chalk,"
        f" {summary.retrieval_top1:.0%} of the images find their own drawing first among {summary.retrieval_candidates};"
        f" before this training {summary.retrieval_top1_before:.0%} did."
    )
    print(home.root / "demo" / "contact_sheet.png", home.root / "demo" / "summary.json", sep="\n")
