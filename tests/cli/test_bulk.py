"""Bulk commands: an error of one item is named and counted, and the rest is done, wherever it is.

Each kind of error is raised for the first, a middle and the last item of every command.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.domain.errors import (
    AnalysisError,
    CapacityError,
    DatabaseUnavailable,
    RenderError,
    SmartserveError,
    SourceError,
    StorageError,
)
from proxy.library.adoption.adopt import AdoptedMedia
from proxy.library.adoption.grouping import FileGroup
from proxy.library.import_files import ImportedFile
from proxy.serving.warm import WarmResult
from proxy.settings import Settings
from proxy.storage.database.schema import main_schema, upgrade
from proxy.storage.database.upload_repository import NewUpload, UploadRepository
from proxy.storage.renditions.tiered_store import TieredStore
from tests.cli.conftest import Completed, Invoke
from tests.support.errors import concrete
from tests.support.server import SAMPLES, make_settings
from tests.support.waiting import wait_until

COUNT = 5
POSITIONS = [{1}, {3}, {5}, {1, 2, 3, 4, 5}]
"""The first, a middle and the last item, and all."""

Fail = Callable[[int], None]
"""Called with the number of an item, from 1; raises its error, if it has one."""
Patch = Callable[[str, object], None]


ERRORS = concrete(CapacityError, SourceError, RenderError, StorageError, AnalysisError)


def context(value: object) -> Callable[..., Any]:
    """Return a function like ``open_services``."""

    @asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[object]:
        yield value

    return opened


def services(settings: Settings, **parts: object) -> SimpleNamespace:
    return SimpleNamespace(settings=settings, **parts)


def files(root: Path) -> list[Path]:
    """Return five files, in a folder of their own."""
    folder = root / "files"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.jpg" for number in range(1, COUNT + 1)]
    for path in paths:
        path.touch()
    return paths


def run_import(patch: Patch, invoke: Invoke, root: Path, fail: Fail) -> Completed:
    async def import_file(path: Path, **_: object) -> ImportedFile:
        fail(int(path.stem))
        return ImportedFile(path, int(path.stem), known=False)

    importer = SimpleNamespace(import_file=import_file)
    opened = context(services(make_settings(root), importer=importer))
    patch("proxy.cli.images.open_services", opened)
    return invoke("import", *files(root)[:1], root / "files" / "2.jpg", *files(root)[2:])


def run_adopt(patch: Patch, invoke: Invoke, root: Path, fail: Fail) -> Completed:
    async def adopt(group: FileGroup) -> list[AdoptedMedia]:
        path = group.files[0].path
        fail(int(Path(path).stem))
        return [AdoptedMedia(int(Path(path).stem), path, False, None, ())]  # noqa: FBT003

    async def fill(media_id: int) -> None:
        """Render no fallbacks."""

    files(root)
    fallbacks = SimpleNamespace(fill=fill)
    opened = services(make_settings(root), storage=None, fallback_renderer=fallbacks)
    patch("proxy.cli.adopt.open_services", context(opened))
    patch("proxy.cli.adopt.open_adopter", context(SimpleNamespace(adopt=adopt)))
    return invoke("adopt", root / "files", "--data-dir", root / "data")


def run_warm(patch: Patch, invoke: Invoke, root: Path, fail: Fail) -> Completed:
    async def warm(media_id: int) -> WarmResult:
        fail(media_id)
        return WarmResult(1, 0)

    async def drain() -> None:
        """Wait for nothing."""

    serving = SimpleNamespace(
        warmer=SimpleNamespace(warm=warm), renderer=SimpleNamespace(drain=drain)
    )
    patch("proxy.cli.images.open_services", context(services(make_settings(root), serving=serving)))
    return invoke("warm", "1", "2", "3", "4", "5")


def run_analyse(patch: Patch, invoke: Invoke, root: Path, fail: Fail) -> Completed:
    async def find(media_id: int) -> int:
        return media_id

    async def analyse(media: int, _facts: object, *, stored: object) -> object:
        assert stored is None
        fail(media)
        return SimpleNamespace(public=dict)

    opened = services(
        make_settings(root),
        storage=SimpleNamespace(database=SimpleNamespace(find=find), analyses=None),
        serving=SimpleNamespace(facts=SimpleNamespace(facts=find)),
    )
    patch("proxy.cli.images.open_services", context(opened))
    patch("proxy.cli.images.open_analyst", context(SimpleNamespace(analyse=analyse)))
    return invoke("analyse", "1", "2", "3", "4", "5")


def run_purge(patch: Patch, invoke: Invoke, root: Path, fail: Fail) -> Completed:
    async def medium(media_id: int, _boxes: object) -> object:
        fail(media_id)
        return SimpleNamespace(media_id=media_id, dropped=1, recorded=True, error=None)

    opened = SimpleNamespace(purger=SimpleNamespace(medium=medium))
    patch("proxy.cli.purge.open_storage", context(opened))
    return invoke("purge", "1", "2", "3", "4", "5", "--data-dir", root)


COMMANDS = {
    "import": run_import,
    "adopt": run_adopt,
    "warm": run_warm,
    "analyse": run_analyse,
    "purge": run_purge,
}
SUMMARIES = {
    "import": "import: {done} imported, 0 known, {failed} skipped",
    "adopt": "adopt: {done} adopted, 0 known, {failed} skipped",
    "warm": "warming: {done} done, {failed} failed",
    "analyse": "analysing: {done} done, {failed} failed",
    "purge": "purge: {done} images, {failed} failed",
}


def check(done: Completed, failing: Collection[int], reason: str, summary: str) -> None:
    """Check the lines of a run in which these of five items have failed."""
    sound, lines = COUNT - len(failing), done.stderr.splitlines()
    assert done.code == 1, done.stderr
    assert len(done.stdout.splitlines()) == sound, "the rest is done"
    named = [line for line in lines if reason in line and line.startswith(("skipped ", "failed "))]
    assert len(named) == len(failing)
    for number in failing:
        assert sum(f"{number}: " in one or f"{number}.jpg: " in one for one in named) == 1
    # The rate follows, where a command reports it.
    assert lines[-1].partition(", in ")[0] == summary.format(done=sound, failed=len(failing))


@pytest.mark.parametrize(("queue", "at_a_time"), [("1000", 4), ("1", 3), ("0", 2)])
def test_workers_decode_while_other_files_are_stored(
    queue: str, at_a_time: int, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = most = 0
    full = asyncio.Event()

    async def import_file(path: Path, **_: object) -> ImportedFile:
        nonlocal active, most
        active += 1
        most = max(most, active)
        if active == at_a_time:
            full.set()
        async with asyncio.timeout(60):
            await full.wait()
        # All others that could start have started now.
        await asyncio.sleep(0)
        active -= 1
        return ImportedFile(path, int(path.stem), known=False)

    importer = SimpleNamespace(import_file=import_file)
    opened = context(services(make_settings(tmp_path), importer=importer))
    monkeypatch.setattr("proxy.cli.images.open_services", opened)
    limits = {"SMARTSERVE_WORKERS__COUNT": "2", "SMARTSERVE_WORKERS__MAX_QUEUE": queue}
    done = invoke("import", *files(tmp_path), **limits)
    assert (done.code, most) == (0, at_a_time), done.stderr


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_of_one_item_costs_only_itself(
    command: str,
    error: type[SmartserveError],
    tmp_path: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without repetitions of temporary errors, which tests/cli/test_base.py tests.
    monkeypatch.setattr("proxy.cli.base._RETRY_DELAYS_S", ())
    for failing in POSITIONS:

        def fail(number: int, failing: Collection[int] = failing) -> None:
            if number in failing:
                raise error("for a reason")

        done = COMMANDS[command](monkeypatch.setattr, invoke, tmp_path, fail)
        check(done, failing, "for a reason", SUMMARIES[command])


@pytest.mark.parametrize("command", ["import", "adopt", "warm", "analyse"])
@pytest.mark.parametrize("failing", [{1}, {3}, {5}], ids=str)
def test_a_temporary_error_is_repeated(
    command: str,
    failing: set[int],
    tmp_path: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.cli.base._RETRY_DELAYS_S", (0, 0))
    attempts: list[int] = []

    def fail(number: int) -> None:
        attempts.append(number)
        if number in failing and attempts.count(number) < 3:
            raise CapacityError("busy")

    done = COMMANDS[command](monkeypatch.setattr, invoke, tmp_path, fail)
    assert done.code == 0, done.stderr
    assert len(done.stdout.splitlines()) == COUNT
    last = done.stderr.splitlines()[-1].partition(", in ")[0]
    assert last == SUMMARIES[command].format(done=COUNT, failed=0)


@pytest.mark.parametrize("failing", [{1}, {2}, {4}, {1, 2, 3, 4}], ids=str)
def test_a_purge_by_user_goes_on_after_an_image_that_fails(
    failing: set[int], data_dir: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User 7 owns the four images of the library."""
    purge = TieredStore.purge

    async def failing_for(self: TieredStore, media_id: int, shapes: Any = None) -> int:
        if media_id in failing:
            raise StorageError("renditions could not be deleted from the disk")
        return await purge(self, media_id, shapes)

    monkeypatch.setattr(TieredStore, "purge", failing_for)
    done = invoke("purge", "--user-id", "7", "--data-dir", data_dir)
    assert done.code == 1, done.stderr
    purged = [int(line.split("\t")[0]) for line in done.stdout.splitlines()]
    assert purged == [one for one in (1, 2, 3, 4) if one not in failing]
    for media_id in failing:
        assert f"failed {media_id}: renditions could not be deleted" in done.stderr
    summary = f"purge: {4 - len(failing)} images, {len(failing)} failed"
    assert done.stderr.splitlines()[-1] == summary


async def _processed(settings: Settings, unreadable: Collection[int]) -> None:
    """Create five uploads that are processed; these of them name no image."""
    url, section = settings.main_url, settings.database
    await upgrade(url, section, schema=main_schema(own=True))
    async with UploadRepository(url, section, own=True) as main:
        for number in range(1, COUNT + 1):
            path = f"/temp_images/profiles/{number}-profile-1-1.jpg"
            (pending_id,) = await main.insert(
                number, [NewUpload("profile_image", path, None, "image/jpeg")]
            )
            await main.mark_processed(pending_id, "none" if number in unreadable else "789")


@pytest.mark.parametrize("failing", [{1}, {3}, {5}, {1, 2, 3, 4, 5}], ids=str)
@pytest.mark.parametrize("kind", ["unreadable", *concrete(DatabaseUnavailable)], ids=str)
def test_replace_urls_goes_on_after_an_upload_that_fails(
    kind: str | type[SmartserveError],
    failing: set[int],
    tmp_path: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = UploadRepository.replace_path

    async def failing_for(self: UploadRepository, pending: Any, *rest: Any, **named: Any) -> Any:
        if pending.id in failing and not isinstance(kind, str):
            raise kind("not now")
        return await replace(self, pending, *rest, **named)

    monkeypatch.setattr(UploadRepository, "replace_path", failing_for)
    unreadable = failing if kind == "unreadable" else ()
    asyncio.run(_processed(make_settings(tmp_path), unreadable))
    base = {"SMARTSERVE_MAIN__SMART_MEDIA_BASE_URL": "https://api.example.org/api/images"}
    done = invoke("replace-urls", "--data-dir", tmp_path, **base)
    assert done.code == 1, done.stderr
    sound, failed = COUNT - len(failing), len(failing) - len(unreadable)
    assert f"{sound} uploads complete" in done.stdout
    for number in failing:
        line = f"upload {number}\tis processed, but names no image\n"
        shown = done.stdout if unreadable else done.stderr
        assert (line if unreadable else f"failed upload {number}: not now\n") in shown
    summary = f"replace-urls: {sound} completed, {len(unreadable)} unreadable, {failed} failed"
    assert done.stderr.splitlines()[-1] == summary
    report = json.loads(invoke("replace-urls", "--json", "--data-dir", tmp_path, **base).stdout)
    assert report["completed"] == 0, "only those that failed are left"


@pytest.mark.parametrize(("failures", "code"), [(0, 0), (1, 1), (3, 1)])
def test_ingest_once_ends_with_its_counts(
    failures: int, code: int, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That an upload costs only itself is tested in tests/ingest/test_worker_loop.py."""

    async def run_once() -> int:
        return failures

    opened = context(SimpleNamespace(run_once=run_once, ran=COUNT))
    monkeypatch.setattr("proxy.cli.ingest.open_services", context(None))
    monkeypatch.setattr("proxy.cli.ingest.open_ingest", opened)
    done = invoke("ingest", "--once", "--data-dir", tmp_path)
    assert (done.code, done.stderr.splitlines()[-1]) == (
        code,
        f"ingest: 5 processed, {failures} failed",
    )


HANGING = """
import os, pathlib, signal, sys, time
owner, name, marker = eval(sys.argv[1]), sys.argv[2], sys.argv[3]
real = getattr(owner, name)

def hang(path, *rest, **options):
    # As in a system call to a dead NFS server: no signal handler of Python can run in this thread.
    if "dead-fs" in str(path):
        open(marker, "w").close()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        time.sleep(600)
    return real(path, *rest, **options)

setattr(owner, name, hang)
# A shell starts what runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["smartserve", *sys.argv[4:]]
from proxy.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
@pytest.mark.parametrize(
    ("command", "owner", "function"),
    [
        ("import", "os", "scandir"),
        ("import", "pathlib.Path", "is_dir"),
        ("import", "os", "open"),
        ("adopt", "os", "scandir"),
        ("adopt", "pathlib.Path", "is_dir"),
        ("metadata rename", "os", "scandir"),
        ("metadata rename", "os", "open"),
    ],
)
def test_a_dead_file_system_does_not_keep_a_command_from_ending(
    command: str, owner: str, function: str, number: int, code: int, tmp_path: Path
) -> None:
    folder, marker = tmp_path / "images" / "dead-fs", tmp_path / "hangs"
    folder.mkdir(parents=True)
    shutil.copy(SAMPLES / "logo.png", folder / "logo.png")
    # A command that does not search folders gets the one that hangs.
    hangs_in_search = function == "scandir" and command != "metadata rename"
    arguments = [*command.split(), folder.parent if hangs_in_search else folder]
    started = [sys.executable, "-c", HANGING, owner, function, marker, *arguments]
    with subprocess.Popen(
        [*map(str, started), "--data-dir", str(tmp_path / "data")], stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            wait_until(marker.exists)
            process.send_signal(number)
            assert process.wait(60) == code
        finally:
            process.kill()
        assert b"Traceback" not in process.stderr.read()
