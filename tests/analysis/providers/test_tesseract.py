"""Reading text: by Tesseract itself, and what happens where it is missing, slow or wild."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from proxy.analysis.providers.tesseract import TextReader, text_of
from proxy.domain.analysis import ProviderGap
from proxy.settings.vision import TextSettings
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import page, photograph

HEAD = (
    "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
)


@pytest.fixture
def tesseract() -> TextReader:
    if shutil.which("tesseract") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tesseract is not installed")
        pytest.skip("tesseract is not installed")
    return TextReader(TextSettings())


def program(folder: Path, script: str) -> TextReader:
    """A reader whose Tesseract is a script."""
    file = folder / "tesseract"
    file.write_text(f"#!/usr/bin/env python3\n{script}\n")
    file.chmod(0o755)
    return TextReader(TextSettings(program=str(file), timeout_s=5))


async def test_a_page_is_read(tesseract: TextReader) -> None:
    found = await tesseract.read(studio.saved(page()))
    assert isinstance(found, str)
    lines = found.splitlines()
    assert len(lines) == 40
    assert lines.count("The quick brown fox jumps over the lazy dog, and then again") >= 38


async def test_a_photograph_without_text_has_none(tesseract: TextReader) -> None:
    assert await tesseract.read(studio.saved(photograph("kodak-23.png"))) == ""


async def test_what_is_no_picture_is_told(tesseract: TextReader) -> None:
    found = await tesseract.read(b"nonsense")
    assert isinstance(found, ProviderGap)
    assert "ended with" in found.reason


async def test_where_it_is_not_installed_there_is_a_reason() -> None:
    reader = TextReader(TextSettings(program="tesseract-that-is-not-there"))
    assert reader.missing == "Tesseract is not installed"
    assert await reader.read(b"") == ProviderGap("tesseract", "Tesseract is not installed")


async def test_it_may_be_switched_off() -> None:
    found = await TextReader(TextSettings(enabled=False)).read(b"")
    assert isinstance(found, ProviderGap)
    assert "switched off" in found.reason


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Open files until no more are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with suppress(OSError):
            while True:
                opened.enter_context(Path(os.devnull).open())
        yield


async def test_where_no_process_can_be_started_there_is_a_reason(tmp_path: Path) -> None:
    reader = program(tmp_path, "")
    with no_descriptors_left():
        found = await reader.read(b"")
    assert found == ProviderGap("tesseract", "Tesseract cannot be started: Too many open files")


async def test_what_takes_too_long_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    reader = program(tmp_path, script)
    reader._settings = TextSettings(program="x", timeout_s=1)
    assert await reader.read(b"x" * 10**7) == ProviderGap(
        "tesseract", "Tesseract did not finish within 1 s"
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


PROBES = {
    "a socket": "import socket; socket.socket()",
    "much memory": "bytearray(1200 * 2**20)",
    "a large file": "open({file!r}, 'wb').write(bytes(5 * 2**20))",
    "a variable of ours": "import os; os.environ['SMARTSERVE_SECRET']",
    "a higher priority": "import os; assert os.nice(0) < 19",
    "new privileges": "assert 'NoNewPrivs:\\t0' in open('/proc/self/status').read()",
}


@pytest.mark.parametrize("what", PROBES)
async def test_it_gets_nothing_that_it_has_no_need_of(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_SECRET", "hunter2")
    probe = PROBES[what].format(file=str(tmp_path / "large"))
    script = (
        f"try:\n    {probe}\nexcept BaseException:\n    raise SystemExit(7)\nraise SystemExit(0)"
    )
    assert await program(tmp_path, script).read(b"") == ProviderGap(
        "tesseract", "Tesseract ended with status 7"
    )


async def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    reader = program(tmp_path, "import os\nwhile True: os.write(1, bytes(65536))")
    assert await reader.read(b"") == ProviderGap("tesseract", "Tesseract ended with status 1")


def test_only_words_that_it_is_sure_of_count() -> None:
    rows = [
        "5\t1\t1\t1\t1\t1\t0\t0\t9\t9\t96.5\tFREE",
        "5\t1\t1\t1\t1\t2\t0\t0\t9\t9\t12\tnoise",
        '5\t1\t1\t1\t2\t1\t0\t0\t9\t9\t91\t"BIRD',
        "5\t1\t2\t1\t1\t1\t0\t0\t9\t9\t95\t|",
        "4\t1\t2\t1\t1\t0\t0\t0\t9\t9\t-1\t",
    ]
    assert text_of("\n".join([HEAD, *rows])) == 'FREE\n"BIRD'
    assert text_of("") == ""
