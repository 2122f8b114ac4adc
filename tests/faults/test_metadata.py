"""Hostile files through real engines: refused or read, within bounds, and no packet is sent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from proxy.domain.errors import (
    ExtractionFailed,
    MetadataTooLarge,
    UnknownImageFormat,
)
from proxy.metadata.extraction import Extraction, ExtractOptions
from proxy.metadata.service import MetadataService
from proxy.metadata.start import open_metadata
from proxy.settings import MetadataSettings, WorkerSettings
from tests.benchmarks.processes import family, peak_bytes, resident_bytes
from tests.faults.hostile_metadata import ADDRESSES, NAMES, READ, REFUSED, fuzzed, mutants
from tests.faults.table import Figure, Record
from tests.metadata.files import MAKE, jpeg, require_exiftool
from tests.support.server import ROOT
from tests.support.waiting import eventually

# exiftool has the lowest priority: a machine that is busy with other work hardly runs it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 1024**2
ENGINES = 2
_ALLOWED = (UnknownImageFormat, MetadataTooLarge, ExtractionFailed)
_READY_S = 120.0


@asynccontextmanager
async def extraction(root: Path) -> AsyncIterator[MetadataService]:
    """Run real engines; afterwards the folder must be empty."""
    require_exiftool()
    # A busy machine must not let a file fail: only its CPU time is limited here.
    settings = MetadataSettings(
        temp_root=str(root / "files"), engines=ENGINES, timeout_s=3600, engine_timeout_s=600, nice=0
    )
    async with open_metadata(settings, WorkerSettings(), environment={}) as service:
        await extract(service, jpeg(), "photo.jpg")
        await until_ready(service)
        yield service
        assert [path for path in service.folder.rglob("*") if path.is_file()] == []
    assert list((root / "files").iterdir()) == []


async def until_ready(service: MetadataService) -> None:
    """Return when as many processes as configured are idle, replacements included."""
    await eventually(lambda: service.statistics()["engines_idle"] == ENGINES, timeout_s=_READY_S)
    await eventually(lambda: service.statistics()["workers_up"] == ENGINES, timeout_s=_READY_S)


async def extract(
    service: MetadataService, content: bytes, name: str, *, advanced: bool = False
) -> Extraction:
    with service.new_file(max_bytes=10**9) as file:
        await file.write(content)
        await file.finish()
        return await service.extract(file, ExtractOptions(name, advanced=advanced))


async def assert_healthy(service: MetadataService) -> None:
    """Assert that exiftool reads a file, after what was sent before."""
    await until_ready(service)
    found = await extract(service, jpeg(), "photo.jpg")
    assert found.metadata["exif"]["make"] == MAKE
    assert found.processing_insights["fallback_extraction"] is False


def processes() -> dict[str, list[int]]:
    """Return the process ids of exiftool and of the parsers."""
    found: dict[str, list[int]] = {"exiftool": [], "proxy.metadata.worker": []}
    for pid in family(os.getpid())[1:]:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        for program, pids in found.items():
            if program.encode() in arguments:
                pids.append(pid)
    return found


async def test_bombs_are_refused_and_no_process_grows_or_ends(tmp_path: Path) -> None:
    async with extraction(tmp_path) as service:
        before = processes()
        peaks = {pid: peak_bytes(pid) for pids in before.values() for pid in pids}
        for name, content in REFUSED.items():
            at = resident_bytes(os.getpid())
            Path("/proc/self/clear_refs").write_text("5")
            with pytest.raises((MetadataTooLarge, UnknownImageFormat)):
                await extract(service, content, "a.png")
            assert peak_bytes(os.getpid()) - at < 32 * MIB, name
            grown = {pid: peak_bytes(pid) - peak for pid, peak in peaks.items()}
            assert max(grown.values()) < 48 * MIB, (name, grown)
        assert processes() == before
        await assert_healthy(service)


@pytest.mark.parametrize("advanced", [False, True])
async def test_loops_nesting_and_entities_are_read_within_bounds(
    tmp_path: Path, *, advanced: bool
) -> None:
    async with extraction(tmp_path) as service:
        before = processes()
        for name, content in READ.items():
            found = await extract(service, content, "a.bin", advanced=advanced)
            text = json.dumps(found.parsed().to_dict())
            assert "root:" not in text, name
            assert "haha" not in text, name
        assert processes()["proxy.metadata.worker"] == before["proxy.metadata.worker"]
        await assert_healthy(service)


async def test_file_names_are_no_options_paths_or_commands(tmp_path: Path) -> None:
    injected = Path("/tmp/injected")
    injected.unlink(missing_ok=True)
    async with extraction(tmp_path) as service:
        plain = await extract(service, jpeg(), "photo.jpg")
        for name in NAMES:
            found = await extract(service, jpeg(), name)
            assert found.metadata["groups"] == plain.metadata["groups"], name
            assert found.processing_insights["fallback_extraction"] is False, name
        assert not injected.exists()
        await assert_healthy(service)


async def send_all(service: MetadataService, files: Iterable[bytes]) -> Counter[str]:
    """Send files, four at once; return how often each outcome occurred."""
    outcomes: Counter[str] = Counter()
    waiting = iter(files)

    async def client() -> None:
        for content in waiting:
            try:
                found = await extract(service, content, "a.jpg", advanced=len(content) % 2 == 0)
            except _ALLOWED as error:
                outcomes[type(error).__name__] += 1
            else:
                json.dumps(found.parsed().to_dict(), allow_nan=False).encode()
                outcomes[
                    "fallback" if found.processing_insights["fallback_extraction"] else "ok"
                ] += 1

    await asyncio.gather(*(client() for _ in range(4)))
    return outcomes


async def test_damaged_files_leave_the_pools_healthy(tmp_path: Path) -> None:
    async with extraction(tmp_path) as service:
        outcomes = await send_all(service, [*mutants(2026, 80), *fuzzed(2026, 20)])
        assert outcomes.total() == 100
        assert outcomes["ok"] > 20
        await assert_healthy(service)


@pytest.mark.drill
async def test_two_thousand_mutants_are_answered_within_bounds(
    tmp_path: Path, record: Record
) -> None:
    """About two minutes."""
    files = chain(mutants(7, 2_000), fuzzed(7, 120))
    async with extraction(tmp_path) as service:
        at = resident_bytes(os.getpid())
        Path("/proc/self/clear_refs").write_text("5")
        began = time.monotonic()
        outcomes = await send_all(service, files)
        seconds = time.monotonic() - began
        assert outcomes.total() == 2_120
        grown = peak_bytes(os.getpid()) - at
        assert grown < 64 * MIB
        await assert_healthy(service)
        figures = service.statistics()
        most = max(peak_bytes(pid) for pids in processes().values() for pid in pids)
        assert most < 512 * MIB
    restarts = sum(figures[key] for key in figures if key.startswith(("restarts_", "worker_res")))
    measured = (
        f"{dict(outcomes)}, {restarts:.0f} processes replaced, {seconds:.0f} s; largest process"
        f" {most / MIB:.0f} MiB, server +{grown / MIB:.0f} MiB"
    )
    record(Figure(4, "mutants and random files extracted", outcomes.total(), 0, measured))


@pytest.mark.drill
@pytest.mark.alone
async def test_a_killed_engine_is_replaced_within_a_second(tmp_path: Path, record: Record) -> None:
    taken = []
    async with extraction(tmp_path) as service:
        for _ in range(10):
            killed, *_ = service.engine_pids
            began = time.monotonic()
            os.kill(killed, signal.SIGKILL)
            gone = partial(lambda pid: pid not in service.engine_pids, killed)
            await eventually(gone, timeout_s=_READY_S, interval_s=0.005)
            await until_ready(service)
            taken.append(time.monotonic() - began)
        await assert_healthy(service)
    taken.sort()
    assert taken[len(taken) // 2] < 1
    measured = f"replaced in {1000 * taken[5]:.0f} ms, at most {1000 * taken[-1]:.0f} ms"
    record(Figure(5, "engines killed", len(taken), 0, measured))


def isolated() -> list[str]:
    """Return a command that runs in a namespace without a network; skip if there is none."""
    prefix = ["unshare", "--net", "--mount"]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare (util-linux) and ip (iproute2) are required")
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user must not create namespaces")
    return prefix


def test_no_packet_leaves_the_machine(tmp_path: Path) -> None:
    require_exiftool()
    pytest.importorskip("c2pa")
    done = subprocess.run(
        [*isolated(), sys.executable, "-m", "tests.faults.isolated", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["packets"] == 0
    assert result["control"] > 0, "the check cannot fail: no packet was counted"
    assert result["states"]["a remote manifest"] == "remote"
    assert set(result["states"]) >= set(ADDRESSES)
