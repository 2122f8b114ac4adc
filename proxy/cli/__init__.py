"""The ``smartserve`` command.

The module of a command is imported when the command is run. Importing all of them takes one to two
seconds, most of it for modules that a short command such as ``purge`` does not need.
"""

import gc
import importlib
import sys
from collections.abc import Mapping

# Imported modules are never freed. Traversing them in every collection costs a third of the time
# of a short command, and 0.2 s of the server's start.
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
    "near-duplicates": "images",
    "openapi": "installation",
    "purge": "purge",
    "replace-urls": "uploads",
    "retry-uploads": "ingest",
    "serve": "serve",
    "settings": "installation",
    "similar": "images",
    "status": "ingest",
    "token": "uploads",
    "warm": "images",
}
"""Commands, and the module of this package that defines each."""


def load(command: str = "") -> None:
    """Import the module of a command; if it is unknown, such as ``--help``, import all modules."""
    wanted = [MODULES[command]] if command in MODULES else MODULES.values()
    gc.disable()
    for name in sorted(set(wanted)):
        importlib.import_module(f"proxy.cli.{name}")
    gc.freeze()
    gc.enable()


def main() -> None:
    """Run the command and exit; errors of the program are printed without a traceback.

    Typer handles usage errors, Ctrl-C and a closed standard output, and exits itself.
    """
    # --version needs no command; importing them would take most of its time.
    if sys.argv[1:] != ["--version"]:
        load("".join(sys.argv[1:2]))
    try:
        app()
    except SmartserveError as error:
        fail(error)
