"""Shared by all commands: the application, settings and their options, and concurrent work."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import structlog
import typer
import uvloop

from proxy.cli import SUMMARIES, OutputFailed, app
from proxy.domain.errors import (
    CapacityError,
    ConfigurationError,
    DatabaseUnavailable,
    SmartserveError,
)
from proxy.domain.media import MAX_MEDIA_ID
from proxy.runtime.thread_pool import DaemonExecutor
from proxy.settings import Settings, load_settings
from proxy.settings.sections import ServerSettings
from proxy.telemetry.logging import OUTPUT, configure_logs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

CLOSE_S = 5.0
"""Time for closing everything once no response is sent any more."""

_RETRY_DELAYS_S = (1.0, 3.0, 10.0, 20.0)

T = TypeVar("T")
log = structlog.get_logger(__name__)

_LOG_S = 1.0
database_app = typer.Typer(help=SUMMARIES["db"], no_args_is_help=True, rich_markup_mode=None)
app.add_typer(database_app, name="db")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="SMARTSERVE_CONFIG",
        help="Read settings from this TOML file. SMARTSERVE_* variables override it.",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        show_default="data_dir",
        help="Directory of database, originals and renditions.",
    ),
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
IdsArgument = Annotated[
    list[int] | None,
    typer.Argument(
        min=1, max=MAX_MEDIA_ID, metavar="ID", show_default="all images", help="Media ids."
    ),
]


@functools.cache
def errors() -> Console:
    """Return the console of standard error."""
    # Imported here: the server prints nothing through it, and rich takes 50 ms to import.
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True)


def fail(error: SmartserveError) -> NoReturn:
    """Print an error, one line for each fault, and exit: with 2 for settings, otherwise with 1."""
    # The message of a ConfigurationError has one line for each fault.
    for line in reason_of(error).splitlines():
        print_error("error:", line)
    raise SystemExit(2 if isinstance(error, ConfigurationError) else 1)


def reason_of(error: SmartserveError) -> str:
    """Return the sentence for operators."""
    # Clients get the public sentence of a database error, operators the cause and what to do.
    cause = error.reason if isinstance(error, DatabaseUnavailable) else ""
    return cause or str(error)


def print_error(label: str, text: str) -> None:
    """Print a line to standard error; ``text`` may contain any characters."""
    from rich.text import Text  # noqa: PLC0415 - see `errors`

    errors().print(Text.assemble((label, "red"), " ", printable(text)), soft_wrap=True)


def print_line(line: str) -> None:
    """Print a line unless nobody reads standard output any more, as after ``| head -1``."""
    try:
        # One write: with PYTHONUNBUFFERED, `print` writes the line end apart, and a line of the log
        # could come between if both go to one file.
        print(f"{line}\n", end="", flush=True)
    except BrokenPipeError:
        # The interpreter would try again at exit.
        sys.stdout = None


def print_result(text: str) -> None:
    """Print lines of one image to standard output. Not in a block that catches errors of an image.

    Raises:
        BrokenPipeError: nobody reads it any more; Typer ends the command without a message.
        OutputFailed: it cannot be written, for example because the disk is full.
    """
    try:
        # One write: several threads print. Flushed: an error that comes at exit has no message.
        print(f"{text}\n", end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(error.strerror or str(error)) from error


def printable(text: str) -> str:
    """Escape what would change a terminal or the order of the text, as in a Python string.

    Names of files may contain escape sequences, line breaks, bidirectional controls, and bytes that
    are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def is_unicode(text: str) -> bool:
    """Return whether an argument was UTF-8; the database accepts no other text."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def print_summary(command: str, *, seconds: float = 0.0, **counts: int) -> None:
    """Print a last line to standard error: the counts of a command, and its rate if it has one."""
    listed = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    if seconds:
        listed += f", in {seconds:.1f} s ({sum(counts.values()) / seconds:.1f}/s)"
    errors().print(f"{command}: {listed}", markup=False, highlight=False, soft_wrap=True)


def read_settings(config: Path | None, data_dir: Path | None = None, **server: object) -> Settings:
    """Load the settings and configure logging; options that are None do not override a setting."""
    # An option that is not given must not override the file or the environment.
    given = {key: value for key, value in server.items() if value is not None}
    overrides: dict[str, Any] = {"server": given} if given else {}
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    settings = load_settings(config, overrides)
    configure_logs(settings.log)
    # A setting that was given under its old name, which works for one more release.
    for old, new in settings.renamed.items():
        advice = f"Use {new}. The next release does not accept the old name."
        log.warning("setting_renamed", setting=old, new_name=new, advice=advice)
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, which no thread that hangs in a dead file system prevents.

    After Ctrl-C, and after the coroutine, the process has `CLOSE_S` to end.
    """
    try:
        return uvloop.run(_run(main))
    finally:
        while _timers:
            _timers.pop().cancel()


async def _run(main: Coroutine[Any, Any, T]) -> T:
    asyncio.get_running_loop().set_default_executor(DaemonExecutor())
    cancel = signal.getsignal(signal.SIGINT)
    if callable(cancel) and threading.current_thread() is threading.main_thread():

        def interrupt(number: int, frame: FrameType | None) -> None:
            # The cancellation waits for threads that use what the coroutine would close.
            end_process_after(CLOSE_S, code=128 + number)
            cancel(number, frame)

        signal.signal(signal.SIGINT, interrupt)
    code = 1
    try:
        result = await main
        code = int(isinstance(result, int) and result > 0)
        return result
    finally:
        end_process_after(CLOSE_S, code=code)


def end_process_after(seconds: float, *, code: int = 0) -> None:
    """End the process after a time unless it, or `run`, has ended by then."""
    timer = threading.Timer(seconds, _end_process, (code,))
    timer.daemon = True
    _timers.append(timer)
    timer.start()


_timers: list[threading.Timer] = []


def _end_process(code: int) -> None:
    frames = sys._current_frames()  # noqa: SLF001 - documented, in spite of its name
    others = [one for one in threading.enumerate() if one is not threading.current_thread()]
    log.error(
        "exit_forced",
        detail="a thread does not end, for example in a file system that does not respond",
        threads={
            f"{one.name}-{one.native_id}": f"{frame.f_code.co_filename}:{frame.f_lineno}"
            for one in others
            if (frame := frames.get(one.ident or 0)) is not None
        },
    )
    OUTPUT.drain(_LOG_S)
    os._exit(code)


def _record(settings: Settings) -> Path:
    return settings.data_path / "server.json"


@contextmanager
def address_recorded(settings: Settings, port: int) -> Iterator[None]:
    """Record where this server listens, for other commands, while the block runs.

    The file is locked for the lifetime of the process: a record without a lock is out of date.
    """
    with ExitStack() as stack:
        # A read-only data directory, or another server with the same one: then other commands show
        # the address of the settings, or that of the other server.
        with suppress(OSError):
            file = stack.enter_context(_record(settings).open("a+", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            json.dump({"host": settings.server.host, "port": port}, file)
            file.flush()
        yield


def with_running_server(settings: Settings) -> Settings:
    """Return the settings with host and port of the server that runs with the same data directory.

    Its command line, or the system for port 0, may have chosen others.
    """
    try:
        with _record(settings).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                bound = ServerSettings.model_validate(
                    settings.server.model_dump() | json.load(file)
                )
                return settings.model_copy(update={"server": bound})
    # Another version wrote the file, or it is being written.
    except (OSError, ValueError, TypeError):
        pass
    return settings


def command(
    name: str | None = None, *, group: typer.Typer = app
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Return a decorator that registers a command whose first parameter is the settings.

    Adds ``--config`` and ``--data-dir``, from which they are loaded. A coroutine is run in a loop.
    The command exits with 1 if it returns a number of failures other than 0.
    """

    def register(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def complete(config: Path | None, data_dir: Path | None, **options: Any) -> None:
            settings = with_running_server(read_settings(config, data_dir))
            result = function(settings, **options)
            failures = run(result) if inspect.iscoroutine(result) else result
            raise SystemExit(1 if failures else 0)

        # Typer reads the options from the signature: those of the command, then the shared ones.
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for option, hint in (("config", ConfigOption), ("data_dir", DataDirOption))
        ]
        complete.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        return group.command(name)(complete)

    return register


async def process_each(
    items: Iterable[T],
    process: Callable[[T], Awaitable[bool]],
    *,
    progress: Progress,
    concurrency: int,
    on_error: Callable[[T, SmartserveError], None] | None = None,
) -> int:
    """Process at most ``concurrency`` items at a time; return how often ``process`` was False.

    An item is repeated after a temporary error: the database or the workers were too busy. Any
    other error, or the last one of an item, is passed to ``on_error`` and counted; without it, it
    cancels the others.
    """
    failures = 0
    # Shared by all tasks: each takes the next item when it has finished one.
    remaining = iter(items)

    async def process_remaining() -> None:
        nonlocal failures
        for item in remaining:
            try:
                done = await _retried(process, item)
            except SmartserveError as error:
                if on_error is None:
                    raise
                on_error(item, error)
                done = False
            # Not `+= await`: that adds to the value from before the wait, and counts get lost.
            failures += not done
            progress.advance(progress.task_ids[0])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(process_remaining())
    except BaseExceptionGroup as group_error:
        # The group cancels the other tasks at the first error, which is the only one to report.
        raise group_error.exceptions[0] from None
    return failures


async def _retried(process: Callable[[T], Awaitable[bool]], item: T) -> bool:
    for delay_s in _RETRY_DELAYS_S:
        try:
            return await process(item)
        except CapacityError as error:
            errors().print(
                f"{error.reason or error.detail} Retrying in {delay_s:g} s.", markup=False
            )
        await asyncio.sleep(delay_s)
    return await process(item)


def progress_bar(label: str, total: int) -> Progress:
    """Return a progress bar on standard error, with one task; hidden if it is not a terminal."""
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
    )
    from rich.text import Text  # noqa: PLC0415

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    progress = Progress(
        # transient: the bar disappears at the end, so that only results remain.
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        console=errors(),
        transient=True,
    )
    progress.add_task(label, total=total)
    return progress
