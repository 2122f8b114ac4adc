"""The ``smartserve`` command."""

from proxy.cli import adoption, doctor, ingesting, installation, mainside, pictures, serving
from proxy.cli.base import app, fail
from proxy.errors import SmartserveError

__all__ = [
    "adoption",
    "app",
    "doctor",
    "ingesting",
    "installation",
    "main",
    "mainside",
    "pictures",
    "serving",
]


def main() -> None:
    """Run the command; a fault of the configuration is told in sentences, without a traceback.

    Typer ends the process itself, also after a usage error, Ctrl-C and a reader that has gone.
    """
    try:
        app()
    except SmartserveError as error:
        fail(error)
