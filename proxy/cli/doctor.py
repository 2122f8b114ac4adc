"""``smartserve doctor``: check a running installation and print what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.app.doctor import open_installation
from proxy.cli.base import ConfigOption, DataDirOption, JsonOption, app, errors
from proxy.doctor.check import CheckResult, Verdict, fail
from proxy.doctor.installation import Installation
from proxy.doctor.table import examine
from proxy.domain.errors import ConfigurationError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import LogSettings, load_settings
from proxy.telemetry.logging import configure_logs

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@app.command()
def doctor(
    media_id: Annotated[
        int | None,
        typer.Argument(min=1, max=MAX_MEDIA_ID, help="Id of an image that is not displayed."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            show_default="from server.host, server.port", help="The server's own address."
        ),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(show_default="server.public_url", help="The address of the reverse proxy."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Check a running installation: this machine, the server, and the reverse proxy.

    Prints what each check found and, if something is wrong, what to do. Changes nothing. Exits
    with 1 if a check fails. Run it as the user that the server runs as.
    """
    # Findings are the output; warnings of the libraries would repeat them.
    configure_logs(LogSettings(level="error", format="console"))
    overrides = {} if data_dir is None else {"data_dir": str(data_dir)}
    try:
        settings = load_settings(config, overrides)
    except ConfigurationError as error:
        # Nothing else can be checked without settings.
        advice = "correct each of these settings; nothing else can be checked before"
        results: Sequence[CheckResult] = [
            CheckResult("settings", fail("; ".join(error.faults), advice))
        ]
    else:
        installation = open_installation(
            settings,
            config,
            # Past the reverse proxy: its faults must not look like the server's.
            url=url or settings.local_url(),
            # An empty --public disables the checks of the proxy.
            public=settings.server.public_url if public is None else public,
            media_id=media_id,
        )
        results = uvloop.run(_examine(installation))
    if as_json:
        print(json.dumps(_fields(results), indent=2))
    else:
        _print(results)
    raise SystemExit(1 if _counts(results)[Verdict.FAIL] else 0)


async def _examine(opening: AbstractAsyncContextManager[Installation]) -> list[CheckResult]:
    progress = errors.status("checking ...") if errors.is_terminal else nullcontext()
    # Checks take seconds: show that the command works.
    with progress:
        async with opening as installation:
            return [result async for area in examine(installation) for result in area]


def _counts(results: Sequence[CheckResult]) -> Counter[Verdict]:
    return Counter(result.finding.verdict for result in results)


def _fields(results: Sequence[CheckResult]) -> dict[str, object]:
    counts = _counts(results)
    return {
        "healthy": not counts[Verdict.FAIL],
        "counts": {str(verdict): counts[verdict] for verdict in Verdict},
        "checks": [
            {
                "check": one.check,
                "verdict": one.finding.verdict,
                "seen": one.finding.text,
                "advice": one.finding.advice,
                "alert": one.alert,
            }
            for one in results
        ],
    }


def _print(results: Sequence[CheckResult]) -> None:
    """Print a table to a terminal, otherwise one line with tabs for each check."""
    console = Console()
    table = Table(show_edge=False, pad_edge=False)
    for name in ("check", "", "finding, and what to do"):
        table.add_column(name, overflow="fold")
    for result in results:
        found, advice = result.finding, _advice(result)
        if console.is_terminal:
            # Colours need no legend; skipped checks are dim.
            verdict = f"[{_COLOURS.get(found.verdict, 'dim')}]{found.verdict}"
            bold = f"\n[bold]{escape(advice)}[/bold]" if advice else ""
            table.add_row(result.check, verdict, f"{escape(found.text)}{bold}")
        else:
            # Tabs and newlines separate the columns and the checks, so they are replaced in texts.
            parts = (found.verdict, result.check, found.text, *([advice] if advice else []))
            print("\t".join(" ".join(part.split()) for part in parts))
    if console.is_terminal:
        console.print(table)
    errors.print(_summary(results), highlight=False, soft_wrap=True)


def _summary(results: Sequence[CheckResult]) -> str:
    """Return the number of checks by verdict, with the names of those that warn or fail."""
    # The most severe first.
    named: dict[Verdict, list[str]] = {verdict: [] for verdict in reversed(Verdict)}
    for result in results:
        named[result.finding.verdict].append(result.check)
    shown = (Verdict.FAIL, Verdict.WARN)
    return ", ".join(
        f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if names and verdict in shown else "")
        for verdict, names in named.items()
    )


def _advice(result: CheckResult) -> str:
    """Return what to do, and where it is explained."""
    # The heading has the expression of the alert and the steps to take.
    advice = result.finding.advice
    if not advice or not result.alert:
        return advice
    return f"{advice} (deploy/OPERATING.md: {result.alert})"
