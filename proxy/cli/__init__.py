"""The ``smartserve`` command.

The module of a command is imported when the command is run. Importing all of them takes one to two
seconds, most of it for modules that a short command such as ``purge`` does not need.
"""

import gc
import importlib
import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Annotated

import typer

from proxy import __version__
from proxy.domain.errors import SmartserveError

__all__ = ["MODULES", "SUMMARIES", "OutputFailed", "app", "import_frozen", "load", "main"]

MODULES: Mapping[str, str] = {
    "adopt": "adopt",
    "analyse": "images",
    "bulk": "bulk",
    "check-config": "installation",
    "db": "installation",
    "doctor": "doctor",
    "import": "images",
    "ingest": "ingest",
    "metadata": "metadata",
    "models": "models",
    "near-duplicates": "images",
    "openapi": "installation",
    "purge": "purge",
    "replace-urls": "uploads",
    "retry-uploads": "ingest",
    "serve": "serve",
    "settings": "installation",
    "sign": "signing",
    "similar": "images",
    "status": "ingest",
    "token": "uploads",
    "warm": "images",
}
"""Commands, and the module of this package that defines each."""

SUMMARIES: Mapping[str, str] = {
    "serve": "Serve images over HTTP until SIGTERM or Ctrl-C.",
    "import": (
        "Add images to the database and the storage, also those of web servers and buckets."
    ),
    "adopt": (
        "Take over the storage tree of another system: originals and the sizes made from them."
    ),
    "warm": "Render the finals of all named sizes in all formats that browsers accept.",
    "purge": "Delete renditions of images, here and on all servers that use the database.",
    "analyse": "Print colors, quality, mood and text of images, one JSON object per line.",
    "bulk": "Process a whole library in parts, with any number of workers.",
    "similar": (
        "Print the ids of similar images and their similarity, at most 1, by their embeddings."
    ),
    "near-duplicates": "Print images that look like the given ones, one JSON object per line.",
    "metadata": "Read metadata of image files, write it, and name, sort or flag files by it.",
    "ingest": (
        "Process uploads until SIGTERM or Ctrl-C. Any number of workers may run, on any machines."
    ),
    "status": (
        "Print the state of uploads: the queue, its steps, failures with reasons, and leases."
    ),
    "retry-uploads": (
        "Process the kept uploads again: those that failed although their file was not proved bad."
    ),
    "replace-urls": "Replace the temporary URLs of processed uploads in the profiles.",
    "token": ("Print a token that lets a user upload, for the header Authorization: Bearer TOKEN."),
    "sign": "Print the signed address of an image, and when it expires.",
    "settings": "Print every setting with its default, allowed values and description.",
    "check-config": (
        "Check the settings, and the files and addresses that they name; print all faults."
    ),
    "doctor": "Check a running installation: this machine, the server, and the reverse proxy.",
    "db": "Manage the media database.",
    "models": "Install the model that detects faces.",
    "openapi": "Print the OpenAPI description of the HTTP API.",
}
"""Commands in the order of the list, and the first paragraph of their help."""

_SUMMARY = "Serve images by id in the requested size and the best format that the client accepts."


class OutputFailed(Exception):
    """Standard output cannot be written, which ends a command. An error of no single image."""


def _version(requested: bool) -> None:
    if requested:
        print(f"smartserve {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """Options of the program itself; the callback of each does its work."""


def _new_app() -> typer.Typer:
    return typer.Typer(
        name="smartserve",
        help=_SUMMARY,
        callback=_options,
        no_args_is_help=True,
        # A traceback with local variables could contain keys.
        pretty_exceptions_enable=False,
        # Importing rich takes more time than all other work of --help.
        rich_markup_mode=None,
        add_completion=False,
    )


app = _new_app()
"""The program, with the commands whose modules have been imported."""


def load(command: str = "") -> None:
    """Import the module of a command, by default the modules of all."""
    _import_structlog()
    for name in sorted({MODULES[command]} if command else set(MODULES.values())):
        import_frozen(f"proxy.cli.{name}")


def _import_structlog() -> None:
    """Import structlog without rich, which takes 50 ms; the logs do not use it."""
    if not {"rich", "structlog"} & set(sys.modules):
        # None makes the import fail (importlib.import_module), and structlog does without it.
        sys.modules["rich"] = None  # type: ignore[assignment]
        importlib.import_module("structlog")
        del sys.modules["rich"]


def import_frozen(name: str) -> ModuleType:
    """Import a module and all that it imports without the garbage collector, and return it."""
    # Imported modules are never freed. Traversing them in every collection costs a third of the
    # time of a short command, and 0.2 s of the server's start.
    gc.disable()
    module = importlib.import_module(name)
    gc.freeze()
    gc.enable()
    return module


def main() -> None:
    """Run the command and exit; errors of the program are printed without a traceback.

    Typer handles usage errors, Ctrl-C and a closed standard output, and exits itself.
    """
    _prepare_output()
    command = next((word for word in sys.argv[1:] if word != "--"), "")
    if command not in MODULES:
        # The list of commands, the version, or a usage error: none of them needs a module.
        _overview()()
    load(command)
    try:
        app()
    # Not imported above: it imports what the list of commands does not need.
    except SmartserveError as error:
        importlib.import_module("proxy.cli.base").fail(error)
    except OutputFailed as error:
        importlib.import_module("proxy.cli.base").print_error("error:", f"standard output: {error}")
        raise SystemExit(1) from None


def _prepare_output() -> None:
    """Let every text be printed, whatever the encoding and whether standard output is open."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A prompt or a file name that the encoding does not have must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    with suppress(OSError):
        # The next file that is opened would become standard output.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < _FILES:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


_FILES = 3
"""Standard input, output and error are the descriptors below this one."""


def _overview() -> typer.Typer:
    """Return a program that has the names and summaries of all commands only."""
    overview = _new_app()
    for name, summary in SUMMARIES.items():
        overview.command(name, short_help=summary)(lambda: None)
    return overview
