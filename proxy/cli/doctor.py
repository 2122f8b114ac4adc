"""``smartserve doctor``: look at a running installation, and say what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.app.doctor import open_installation
from proxy.cli.base import ConfigOption, DataDirOption, app, errors, run
from proxy.doctor import CheckResult, Verdict, failed
from proxy.doctor.rounds import Installation, examine
from proxy.domain.errors import ConfigurationError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import LogSettings, load_settings
from proxy.telemetry.logging import configure_logs

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@app.command()
def doctor(
    media_id: Annotated[
        int | None,
        typer.Argument(min=1, max=MAX_MEDIA_ID, help="Id of a picture that does not show."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The server's own address; by default as the settings have it."),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(help="The address in front of it; by default server.public_url."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Check a running installation: each part on this machine, the server, and what is in front.

    Each check says what it saw, and where something is not well, what to do. Nothing is changed.
    The exit code is 1 if a check fails. Run it as the user that the server runs as.
    """
    configure_logs(LogSettings(level="error", format="console"))
    results = _examined(config, data_dir, DoctorTargets(url, public), media_id)
    if as_json:
        print(json.dumps(_object(results), indent=2))
    else:
        _print(results)
    raise SystemExit(1 if _counts(results)[Verdict.FAIL] else 0)


class DoctorTargets(NamedTuple):
    """Those that were given; None is what the settings say."""

    url: str | None
    public: str | None


def _examined(
    config: Path | None, data_dir: Path | None, given: DoctorTargets, media_id: int | None
) -> Sequence[CheckResult]:
    """What all checks found; settings that cannot be loaded leave nothing else to look at."""
    overrides = {} if data_dir is None else {"data_dir": str(data_dir)}
    try:
        settings = load_settings(config, overrides)
    except ConfigurationError as error:
        advice = "mend each of these settings; nothing else can be looked at before"
        return [CheckResult("settings", failed("; ".join(error.faults), advice))]
    public = settings.server.public_url if given.public is None else given.public
    url = given.url or settings.local_url()
    installation = open_installation(settings, config, url=url, public=public, media_id=media_id)
    return run(_all(installation))


async def _all(opening: AbstractAsyncContextManager[Installation]) -> list[CheckResult]:
    waiting = errors.status("examining ...") if errors.is_terminal else nullcontext()
    results: list[CheckResult] = []
    with waiting:
        async with opening as installation:
            async for area in examine(installation):
                results.extend(area)
    return results


def _counts(results: Sequence[CheckResult]) -> Counter[Verdict]:
    return Counter(result.diagnosis.verdict for result in results)


def _object(results: Sequence[CheckResult]) -> dict[str, object]:
    counts = _counts(results)
    return {
        "healthy": not counts[Verdict.FAIL],
        "counts": {str(verdict): counts[verdict] for verdict in Verdict},
        "checks": [
            {
                "check": one.check,
                "verdict": one.diagnosis.verdict,
                "seen": one.diagnosis.seen,
                "advice": one.diagnosis.advice,
                "alert": one.alert,
            }
            for one in results
        ],
    }


def _print(results: Sequence[CheckResult]) -> None:
    """A table for eyes; where it is piped a line for each check, its parts between tabs."""
    console = Console()
    if console.is_terminal:
        console.print(_table(results))
    else:
        for result in results:
            found = result.diagnosis
            parts = (found.verdict, result.check, found.seen, *filter(None, (_told(result),)))
            print("\t".join(" ".join(part.split()) for part in parts))
    errors.print(_summary(results), highlight=False, soft_wrap=True)


def _summary(results: Sequence[CheckResult]) -> str:
    """How many there are of each verdict, and the names of those that are not well."""
    named: dict[Verdict, list[str]] = {verdict: [] for verdict in reversed(Verdict)}
    for result in results:
        named[result.diagnosis.verdict].append(result.check)
    shown = (Verdict.FAIL, Verdict.WARN)
    return ", ".join(
        f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if names and verdict in shown else "")
        for verdict, names in named.items()
    )


def _table(results: Sequence[CheckResult]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for name in ("check", "", "seen, and what to do"):
        table.add_column(name, overflow="fold")
    for result in results:
        found = result.diagnosis
        told = _told(result)
        advice = f"\n[bold]{escape(told)}[/bold]" if told else ""
        verdict = f"[{_COLOURS.get(found.verdict, 'dim')}]{found.verdict}"
        table.add_row(result.check, verdict, f"{escape(found.seen)}{advice}")
    return table


def _told(result: CheckResult) -> str:
    """What to do, and where there is more on it."""
    advice = result.diagnosis.advice
    if not advice or not result.alert:
        return advice
    return f"{advice} (deploy/OPERATING.md: {result.alert})"
