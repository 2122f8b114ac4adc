"""What all commands share: the application, options, settings, and how work is run and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from proxy import __version__
from proxy.domain.errors import (
    ConfigurationError,
    SmartserveError,
)
from proxy.settings import Settings, load_settings
from proxy.telemetry.logging import configure_logs

T = TypeVar("T")

app = typer.Typer(
    name="smartserve",
    help="Serve pictures by id, in the right size and the best format, with headers for a year.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

database_app = typer.Typer(help="The media database.", no_args_is_help=True)

app.add_typer(database_app, name="db")

errors = Console(stderr=True)
log = structlog.get_logger(__name__)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="SMARTSERVE_CONFIG",
        help="Settings file (TOML); SMARTSERVE_* variables win over it.",
    ),
]

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where database, originals and renditions are.")
]


def _version(asked: bool) -> None:
    if asked:
        print(f"smartserve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """Serve pictures by id, in the right size and the best format, with headers for a year."""


def fail(error: SmartserveError) -> NoReturn:
    """Tell an error, a line for each fault, and end: with 2 for settings, with 1 for all else."""
    for line in str(error).splitlines():
        errors.print(f"[red]error:[/red] {escape(line)}", highlight=False, soft_wrap=True)
    raise SystemExit(2 if isinstance(error, ConfigurationError) else 1)


def read_settings(config: Path | None, data_dir: Path | None = None, **server: object) -> Settings:
    """The settings of a command, with the log set up as they say; None is what was not given."""
    given = {key: value for key, value in server.items() if value is not None}
    overrides: dict[str, Any] = {"server": given} if given else {}
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    settings = load_settings(config, overrides)
    configure_logs(settings.log)
    warn_renamed(settings)
    return settings


def warn_renamed(settings: Settings) -> None:
    """Log each setting that was given under its old name, which works for one more release."""
    for old, new in settings.renamed.items():
        advice = f"Use {new}. The next release does not accept the old name."
        log.warning("setting_renamed", setting=old, new_name=new, advice=advice)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work in an event loop of its own."""
    return uvloop.run(work)


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Do work on each item, a few at a time; the first error ends all and is raised."""
    left = iter(items)

    async def take_turns() -> None:
        for item in left:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(take_turns())
    except BaseExceptionGroup as errors_:
        raise errors_.exceptions[0] from None


def progress_bar(what: str, total: int) -> Progress:
    """A bar on standard error, where that is a terminal; its one task has number 0."""
    progress = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), console=errors, transient=True
    )
    progress.add_task(what, total=total)
    return progress
