"""The ``smartserve`` command.

A command's module is imported when the command is run: all of them together take a second or two,
most of which is for what a short command such as ``purge`` does not need.
"""

import gc
import importlib
import sys
from collections.abc import Mapping

# What is imported stays. To look through it again and again, also when the process ends, takes a
# third of the time of a short command, and 0.2 s of the server's start here alone, for nothing.
gc.disable()
from proxy.cli.base import app, fail  # noqa: E402
from proxy.domain.errors import SmartserveError  # noqa: E402

gc.enable()

__all__ = ["MODULES", "app", "load", "main"]

MODULES: Mapping[str, str] = {
    "adopt": "adopt",
    "analyse": "images",
    "check-config": "installation",
    "db": "installation",
    "doctor": "doctor",
    "import": "images",
    "ingest": "ingest",
    "openapi": "installation",
    "purge": "purge",
    "replace-urls": "uploads",
    "serve": "serve",
    "settings": "settings",
    "status": "ingest",
    "token": "uploads",
    "warm": "images",
}
"""Commands, and the module of this package that each is in."""


def load(command: str = "") -> None:
    """Make a command known to the application; all of them where it is none of ours."""
    wanted = [MODULES[command]] if command in MODULES else MODULES.values()
    gc.disable()
    for name in sorted(set(wanted)):
        importlib.import_module(f"proxy.cli.{name}")
    gc.freeze()
    gc.enable()


def main() -> None:
    """Run the command; a fault of the configuration is told in sentences, without a traceback.

    Typer ends the process itself, also after a usage error, Ctrl-C and a reader that has gone.
    """
    if sys.argv[1:] != ["--version"]:
        load("".join(sys.argv[1:2]))
    try:
        app()
    except SmartserveError as error:
        fail(error)
