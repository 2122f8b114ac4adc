"""Memory of server and workers at rest, and their peak while very large images are rendered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.domain.formats import Format
from proxy.settings import load_settings
from tests.benchmarks.client import get
from tests.benchmarks.originals import enlarged, imported, kodak
from tests.benchmarks.peers import PEERS, Wanted, running
from tests.benchmarks.processes import family, peak_bytes, resident_bytes, share_bytes
from tests.benchmarks.report import Comparison, Row, Table, against_best
from tests.benchmarks.servers import Unmeasurable, environment, smartserve

_SOURCES = {"jpg": (10_000, 10_000), "png": (6000, 4000)}
"""With more pixels, the PNG of a photograph would exceed the limit of a file."""
_SHOWN = 1200
_MIB = 1024 * 1024
_WANTED = Wanted(Format.WEBP, _SHOWN)
_ALL = "smartserve, all processes"
_SETTINGS = {"WORKERS__COUNT": "1", "UPGRADES__ENABLED": "false"}
_PLAIN = """
import json, sys, pyvips
path, side, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
image = pyvips.Image.thumbnail(path, side, height=side, size="down")
image.webpsave_buffer(keep="none", **options)
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
"""
"""Prints its own peak in KiB; it has loaded only libvips."""


_REST_MIB = {"server": 90.0, "worker": 35.0}
"""At rest (issue 14, line 6)."""
_BARE = {"server": "aiohttp.web", "worker": "pyvips"}
"""A plain interpreter that has imported only this is the peer of each process."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak resident memory after a rendition, and before it."""

    mib: float
    idle_mib: float

    @property
    def remark(self) -> str:
        """For the table."""
        return f"{self.idle_mib:.0f} when idle"


def measure() -> Table:
    """Measure resident memory in MiB: at rest, and the peak after an image of each kind."""
    rows: list[Row] = []
    notes: list[str] = []
    compared: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="smartserve-memory-") as folder:
        rows += _at_rest(Path(folder))
        for kind, size in _SOURCES.items():
            place = Path(folder) / kind
            (originals := place / "originals").mkdir(parents=True)
            path = originals / f"large.{kind}"
            shutil.copy(enlarged(kodak()[0], *size, kind), path)
            own, theirs = _own_peaks(path, place), dict(_peers_peaks(path, place, notes))
            limit = [_plain_peak(path)]
            rows.append(Row(f"{kind}: plain pyvips", limit, yardstick=limit))
            rows += [
                Row(f"{kind}: {name}", [peak.mib], yardstick=limit, remark=peak.remark)
                for name, peak in {**own, **theirs}.items()
            ]
            compared += against_best(
                f"MiB at the peak, WebP of {_SHOWN} pixels from a {_named(kind)}",
                [own[_ALL].mib],
                {name: [peak.mib] for name, peak in theirs.items()},
                low=True,
                worse="more",
            )
    return Table(
        f"MiB of resident memory; peaks: one WebP of {_SHOWN} pixels from a "
        f"{' and a '.join(map(_named, _SOURCES))}, one worker, one turn",
        rows,
        [
            "At rest: each process's proportional share (PSS) of the pages that several map.",
            "Plain pyvips: an interpreter with nothing else, smartserve's draft profile.",
            "Each process is fresh. The sum of all processes counts shared pages several times.",
            *notes,
        ],
        compared=compared,
    )


def _at_rest(place: Path) -> Iterator[Row]:
    """Yield the share of memory of a server that has answered one request, and of its worker."""
    (media_id,) = imported(kodak()[:1], place / "rest")
    with smartserve(place / "rest", settings=_SETTINGS) as server:
        get(server.address, f"/serve/{media_id}?size=thumbnail&format={_WANTED.format}")
        pids = dict(zip(_REST_MIB, family(server.pid), strict=True))
        found = {name: (resident_bytes(pid), share_bytes(pid)) for name, pid in pids.items()}
    for name, (resident, share) in found.items():
        bare = [_bare_share(_BARE[name])]
        remark = f"{resident / _MIB:.0f} with all pages that it maps"
        figures, most = [share / _MIB], _REST_MIB[name]
        yield Row(f"at rest: python with {_BARE[name]}", bare, yardstick=bare)
        yield Row(f"at rest: smartserve's {name}", figures, yardstick=bare, remark=remark)
        yield Row(f"the same, to {most:.0f} MiB", figures, yardstick=[most], limit=1.0)


def _bare_share(module: str) -> float:
    """Return the share of memory of an interpreter that has imported one module."""
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys, {module}; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return share_bytes(process.pid) / _MIB


def _named(kind: str) -> str:
    width, height = _SOURCES[kind]
    return f"{kind.upper()} of {width * height // 1_000_000} MP"


def _own_peaks(path: Path, place: Path) -> dict[str, Peak]:
    """Return the peaks of smartserve: the server, its largest worker, and all processes."""
    data = place / "data"
    (media_id,) = imported([path], data)
    with smartserve(data, settings=_SETTINGS) as server:
        idle = _peaks_mib(server.pid)
        get(server.address, f"/serve/{media_id}?size=detail&format={_WANTED.format}")
        peaks = _peaks_mib(server.pid)
    # Children may have been replaced meanwhile, but the server is always the first.
    return {
        "smartserve's server": Peak(peaks[0], idle[0]),
        "smartserve's largest worker": Peak(max(peaks[1:]), max(idle[1:])),
        _ALL: Peak(sum(peaks), sum(idle)),
    }


def _peers_peaks(path: Path, place: Path, notes: list[str]) -> Iterator[tuple[str, Peak]]:
    for peer in PEERS:
        try:
            with running(peer, place, path.parent) as server:
                idle = sum(_peaks_mib(server.pid))
                get(server.address, peer.target(path.name, _WANTED))
                yield peer.name, Peak(sum(_peaks_mib(server.pid)), idle)
        except Unmeasurable as error:
            notes.append(f"{path.suffix}, {peer.name}: NOT MEASURED: {str(error)[:200]}")


def _peaks_mib(pid: int) -> list[float]:
    """Return the peaks of a process and of its descendants."""
    return [peak_bytes(member) / _MIB for member in family(pid)]


def _plain_peak(path: Path) -> float:
    profile = load_settings().encoders.profiles()[_WANTED.format]
    arguments = [_PLAIN, str(path), str(_SHOWN), json.dumps(dict(profile.options))]
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {"VIPS_CONCURRENCY": "1"},
    )
    return int(done.stdout) / 1024
