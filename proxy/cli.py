"""The ``smartserve`` command."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from proxy import __version__
from proxy.analysing import Analyst
from proxy.database.upgrade import upgrade
from proxy.errors import (
    BadParameter,
    ConfigurationError,
    DatabaseUnavailable,
    MediaNotFound,
    SmartserveError,
)
from proxy.ingest.importing import Imported, Refused, walk
from proxy.logs import configure_logs
from proxy.media import DataType
from proxy.purging import Purged
from proxy.settings import Settings, load_settings
from proxy.starting import check_start, check_worker, installation_faults
from proxy.variant import SizeSpec, named_boxes
from proxy.web.openapi import describe
from proxy.web.server import interruptible, lag_watch, listening, stop_signals
from proxy.wiring import (
    Rooms,
    ask_worker,
    build_surface,
    open_analyst,
    open_rooms,
    open_storage,
)

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
SAMPLES = Path(__file__).parent / "samples"
"""Pictures to try it with; their origin stands beside them."""


def main() -> None:
    """Run the command; a fault of the configuration is told in sentences, without a traceback.

    Typer ends the process itself, also after a usage error, Ctrl-C and a reader that has gone.
    """
    try:
        app()
    except SmartserveError as error:
        _fail(error)


def _fail(error: SmartserveError) -> NoReturn:
    for line in str(error).splitlines():
        errors.print(f"[red]error:[/red] {line}", highlight=False, soft_wrap=True)
    raise SystemExit(2 if isinstance(error, ConfigurationError) else 1)


def _settings(config: Path | None, data_dir: Path | None = None, **server: object) -> Settings:
    given = {key: value for key, value in server.items() if value is not None}
    overrides: dict[str, Any] = {"server": given} if given else {}
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    settings = load_settings(config, overrides)
    configure_logs(settings.log)
    return settings


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


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


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: DataDirOption = None,
    samples: Annotated[
        bool, typer.Option(help="Import the bundled samples first, if the database is empty.")
    ] = False,
) -> None:
    """Serve pictures over HTTP until SIGTERM or Ctrl-C."""
    settings = _settings(config, data_dir, host=host, port=port)
    check_start(settings)
    _run(_serve(settings, samples=samples))


async def _serve(settings: Settings, *, samples: bool) -> None:
    stopped = stop_signals()
    async with AsyncExitStack() as stack:
        async with interruptible(stopped):
            await _start(stack, settings, samples=samples)
        await stopped.wait()
        log.info("stopping")


async def _start(stack: AsyncExitStack, settings: Settings, *, samples: bool) -> None:
    """Open all, listen, and say so; the stack ends it in the reverse order."""
    rooms = await stack.enter_async_context(open_rooms(settings))
    if samples:
        await _import_samples(rooms)
    surface = build_surface(rooms)
    if surface.access_log is not None:
        stack.callback(surface.access_log.flush)
    port = await stack.enter_async_context(
        listening(surface.runner, surface.health, settings.server)
    )
    await stack.enter_async_context(lag_watch(rooms.metrics.loop_lag))
    # Nobody waits for finals: what is left of the time is for answers.
    stack.push_async_callback(rooms.upgrader.stop)
    stack.callback(surface.health.drain)
    await _announce(rooms, port)


async def _import_samples(rooms: Rooms) -> None:
    if not await rooms.storage.catalogue.ids(limit=1):
        for path in walk([SAMPLES]):
            if path.suffix in (".jpg", ".png"):
                await rooms.importer.take(path, user_id=1, data_type=DataType.PRODUCT)


async def _announce(rooms: Rooms, port: int) -> None:
    settings = rooms.settings
    base = _base_url(settings, port)
    print(f"smartserve {__version__} on {base}", flush=True)
    if not settings.database.url:
        # It serves already; a database that cannot be asked now is no reason to end.
        with suppress(DatabaseUnavailable):
            for media_id in await rooms.storage.catalogue.ids(limit=10):
                print(f"  {base}/serve/{media_id}", flush=True)


def _base_url(settings: Settings, port: int | None = None) -> str:
    if settings.server.public_url:
        return settings.server.public_url.rstrip("/")
    host = settings.server.host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared only
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port or settings.server.port}"


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with all below them.")],
    user_id: Annotated[int, typer.Option(min=0, help="Owner of the pictures.")] = 1,
    type_: Annotated[
        DataType, typer.Option("--type", help="What they are for.")
    ] = DataType.PRODUCT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take pictures into the database and the storage; each is checked to the last pixel.

    Equal content is recognised and not taken twice. A file that cannot be served is named and
    skipped; then the exit code is 1.
    """
    settings = _settings(config, data_dir)
    refused = _run(_import(settings, paths, user_id=user_id, data_type=type_, as_json=as_json))
    raise SystemExit(1 if refused else 0)


async def _import(
    settings: Settings, paths: list[Path], *, user_id: int, data_type: DataType, as_json: bool
) -> int:
    files = list(walk(paths))
    refused = 0
    async with open_rooms(settings) as rooms:
        with _progress("importing", len(files)) as progress:

            async def take(path: Path) -> None:
                nonlocal refused
                outcome = await rooms.importer.take(path, user_id=user_id, data_type=data_type)
                refused += isinstance(outcome, Refused)
                _tell(outcome, _base_url(settings), as_json=as_json)
                progress.advance(progress.task_ids[0])

            await _each(files, take, at_once=settings.workers.processes)
    return refused


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
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


def _tell(outcome: Imported | Refused, base: str, *, as_json: bool) -> None:
    match outcome, as_json:
        case Refused(path, reason), True:
            print(json.dumps({"path": str(path), "error": reason}))
        case Refused(path, reason), False:
            errors.print(f"[red]skipped[/red] {path}: {reason}", highlight=False, soft_wrap=True)
        case Imported(path, media_id, known), True:
            url = f"{base}/serve/{media_id}"
            print(json.dumps({"path": str(path), "id": media_id, "url": url, "known": known}))
        case Imported(path, media_id, known), False:
            print(f"{media_id}\t{base}/serve/{media_id}\t{path}{'  (known)' if known else ''}")


def _progress(what: str, total: int) -> Progress:
    progress = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), console=errors, transient=True
    )
    progress.add_task(what, total=total)
    return progress


@app.command()
def warm(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Media ids; all where none is given.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Render all named sizes in all formats that a browser can be given.

    So no visitor has to wait for one.
    """
    failed = _run(_warm(_settings(config, data_dir), ids or []))
    raise SystemExit(1 if failed else 0)


async def _warm(settings: Settings, ids: list[int]) -> int:
    failed = 0
    async with open_rooms(settings) as rooms:
        wanted = ids or await _all_ids(rooms)
        with _progress("warming", len(wanted)) as progress:

            async def one(media_id: int) -> None:
                nonlocal failed
                failed += not await _warm_one(rooms, media_id)
                progress.advance(progress.task_ids[0])

            await _each(wanted, one, at_once=settings.workers.processes)
        await rooms.delivery.drain()
    return failed


async def _warm_one(rooms: Rooms, media_id: int) -> bool:
    try:
        warmed = await rooms.warmer.warm(media_id)
    except SmartserveError as error:
        errors.print(f"[red]failed[/red] {media_id}: {error.detail}", highlight=False)
        return False
    print(f"{media_id}\t{warmed.rendered} rendered, {warmed.present} present")
    return True


@app.command()
def analyse(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Media ids; all where none is given.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Tell what is known of pictures, as one JSON object a line: colours, quality, mood, text.

    What needs a model is null, with the reason, unless [vision] has a key for one. Nothing is
    stored.
    """
    failed = _run(_analyse(_settings(config, data_dir), ids or []))
    raise SystemExit(1 if failed else 0)


async def _analyse(settings: Settings, ids: list[int]) -> int:
    failed = 0
    async with open_rooms(settings) as rooms, open_analyst(rooms) as analyst:

        async def one(media_id: int) -> None:
            nonlocal failed
            failed += not await _analyse_one(rooms, analyst, media_id)

        await _each(ids or await _all_ids(rooms), one, at_once=settings.workers.processes)
    return failed


async def _analyse_one(rooms: Rooms, analyst: Analyst, media_id: int) -> bool:
    media = await rooms.storage.database.find(media_id)
    try:
        if media is None:
            raise MediaNotFound("there is no picture with this id")
        analysis = await analyst.analyse(media, await rooms.inspector.facts(media))
    except SmartserveError as error:
        errors.print(f"[red]failed[/red] {media_id}: {error.detail}", highlight=False)
        return False
    print(json.dumps({"id": media_id, **analysis.public()}))
    return True


async def _all_ids(rooms: Rooms) -> list[int]:
    found: list[int] = []
    while page := await rooms.storage.catalogue.ids(after=found[-1] if found else 0):
        found.extend(page)
    return found


@app.command()
def purge(
    ids: Annotated[list[int] | None, typer.Argument(help="Media ids.")] = None,
    user_id: Annotated[
        int | None, typer.Option(min=0, help="All media of this user as well.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Only this named size.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Drop renditions of media, from this machine's servers' memory too."""
    if not ids and user_id is None:
        raise typer.BadParameter("name media ids, or --user-id")
    settings = _settings(config, data_dir)
    try:
        boxes = () if size is None else named_boxes(size, settings.size_specs())
    except BadParameter as error:
        raise typer.BadParameter(error.allowed, param_hint="--size") from None
    _run(_purge(settings, ids or [], user_id, boxes))


async def _purge(
    settings: Settings, ids: list[int], user_id: int | None, boxes: Sequence[SizeSpec]
) -> None:
    async with open_storage(settings) as storage:
        for media_id in ids:
            _tell_purged(Purged(media_id, await storage.purger.medium(media_id, boxes)))
        if user_id is not None:
            async for purged in storage.purger.user(user_id, boxes):
                _tell_purged(purged)


def _tell_purged(purged: Purged) -> None:
    print(f"{purged.media_id}\t{purged.dropped} dropped")


@app.command("check-config")
def check_config(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Check the settings, and what they name on this machine; all faults are told at once.

    Then the versions of what decodes and encodes, as a worker process finds them.
    """
    settings = _settings(config, data_dir)
    if faults := installation_faults(settings):
        raise ConfigurationError(faults)
    hello = _run(ask_worker(settings))
    check_worker(hello)
    print(f"ok: {config or 'defaults'}; data in {settings.data_path}")
    print(f"libvips {hello.libvips}; opens {', '.join(hello.source_types)}")
    print(", ".join(f"{name} {version}" for name, version in hello.codecs.items()))


@database_app.command("upgrade")
def db_upgrade(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Bring the database's schema up to date; what is there stays as it is."""
    settings = _settings(config, data_dir)
    settings.data_path.mkdir(parents=True, exist_ok=True)
    changed = _run(upgrade(settings.database_url, settings.database))
    print("upgraded" if changed else "up to date")


@app.command()
def openapi(config: ConfigOption = None) -> None:
    """Print the OpenAPI description of the HTTP surface."""
    json.dump(describe(_settings(config)), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
