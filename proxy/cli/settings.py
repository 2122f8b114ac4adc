"""``smartserve settings``: all there are, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.base import app
from proxy.settings.reference import markdown, notes_in, tables


@app.command()
def settings(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="Only these, and what is in them: encoders."),
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(help="Settings file whose comments say what each is: config/smartserve.toml."),
    ] = None,
) -> None:
    """Print all settings with default and what is allowed, as tables of Markdown."""
    listed = tables(_read_notes(notes))
    if unknown := [name for name in names or [] if not any(one.within(name) for one in listed)]:
        raise typer.BadParameter(f"there is no table {unknown[0]}", param_hint="TABLE")
    wanted = [one for one in listed if not names or any(map(one.within, names))]
    print(markdown(wanted), end="")


def _read_notes(file: Path | None) -> dict[tuple[str, ...], str]:
    try:
        return notes_in(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot be read: {error}", param_hint="--notes") from None
