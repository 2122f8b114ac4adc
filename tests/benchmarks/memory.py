"""Memory of server and workers: at rest, and the peak for images of a hundred megapixels."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyvips

from proxy.domain.formats import Format
from proxy.settings import load_settings
from tests.benchmarks.client import get
from tests.benchmarks.originals import imported, kodak, large
from tests.benchmarks.processes import family, peak_bytes, resident_bytes, share_bytes
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import environment, smartserve

_SIDE = 10_000
_ZOOM = 5
_SHOWN = 1200
_MIB = 1024 * 1024
_FORMAT = Format.WEBP
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


def measure() -> Table:
    """Measure resident memory in MiB: at rest, and the peak after an image of each kind."""
    with tempfile.TemporaryDirectory(prefix="smartserve-memory-") as folder:
        place = Path(folder)
        rows = [*_at_rest(place), *(row for path in _pictures(place) for row in _rows(path, place))]
    return Table(
        f"MiB of resident memory; peaks: one WebP of {_SHOWN} pixels from {_SIDE} x {_SIDE}, one "
        "worker, one turn",
        rows,
        [
            "At rest: each process's proportional share (PSS) of the pages that several map.",
            "Plain pyvips: an interpreter with nothing else, smartserve's draft profile.",
            "Each of smartserve's processes is fresh, too; its import ran in others.",
        ],
    )


def _at_rest(place: Path) -> Iterator[Row]:
    """Yield the share of memory of a server that has answered one request, and of its worker."""
    (media_id,) = imported(kodak()[:1], place / "rest")
    with smartserve(place / "rest", settings=_SETTINGS) as server:
        get(server.address, f"/serve/{media_id}?size=thumbnail&format={_FORMAT}")
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


def _pictures(place: Path) -> Iterator[Path]:
    """Return a photograph of large pixels; otherwise its PNG would exceed the file limit."""
    side = _SIDE // _ZOOM
    photo = pyvips.Image.thumbnail(str(large()[0]), side, height=side, size="force")
    photo = photo.copy_memory().zoom(_ZOOM, _ZOOM)
    jpeg, png = place / "large.jpg", place / "large.png"
    photo.jpegsave(str(jpeg), Q=80)
    photo.pngsave(str(png), compression=1)
    yield from (jpeg, png)


def _rows(path: Path, place: Path) -> Iterator[Row]:
    kind = path.suffix.removeprefix(".")
    data = place / kind
    (media_id,) = imported([path], data)
    with smartserve(data, settings=_SETTINGS) as server:
        idle = dict(_peaks(server.pid))
        get(server.address, f"/serve/{media_id}?size=detail&format={_FORMAT}")
        peaks = dict(_peaks(server.pid))
    limit = [_plain_peak(path)]
    yield Row(f"{kind}: plain pyvips", limit, yardstick=limit)
    for name, peak in peaks.items():
        remark = f"{idle[name]:.0f} when idle" if name in idle else ""
        yardstick = limit if name == "worker" else None
        yield Row(f"{kind}: smartserve's {name}", [peak], yardstick=yardstick, remark=remark)


def _peaks(pid: int) -> Iterator[tuple[str, float]]:
    """Return the peaks of the server and of its largest worker."""
    server, *workers = (peak_bytes(member) / _MIB for member in family(pid))
    yield "server", server
    yield "worker", max(workers)


def _plain_peak(path: Path) -> float:
    profile = load_settings().encoders.profiles()[_FORMAT]
    arguments = [_PLAIN, str(path), str(_SHOWN), json.dumps(dict(profile.options))]
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {"VIPS_CONCURRENCY": "1"},
    )
    return int(done.stdout) / 1024
