"""A file is accepted by its size, its first bytes, and every one of its pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.domain.errors import SourceTooLarge, UndecodableSource, UnsupportedSource
from proxy.domain.media import ProbeResult
from proxy.domain.worker_protocol import ProbeJob
from proxy.serving.job_dispatch import JobResult
from proxy.serving.source_check import SourceChecker
from proxy.settings import LimitSettings

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
FACTS = ProbeResult("ab" * 32, 108, "png", 1, 1, False, 1, False, None)  # noqa: FBT003


class Jobs:
    """A dispatcher that decodes everything, or nothing."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, ProbeJob]] = []
        self.error: Exception | None = None

    async def run_on(self, descriptor: int, job: ProbeJob) -> JobResult[ProbeResult]:
        self.jobs.append((descriptor, job))
        if self.error is not None:
            raise self.error
        return JobResult(FACTS, 0, 0)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def checker(jobs: Jobs) -> SourceChecker:
    limits = LimitSettings(source_types=("png",)).to_limits()
    return SourceChecker(dispatcher=jobs, limits=limits, max_bytes=1000)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


async def test_an_image_is_decoded_strictly_and_its_facts_returned(
    checker: SourceChecker, jobs: Jobs, file: int
) -> None:
    os.write(file, PNG)
    assert await checker.check(file) == FACTS
    ((descriptor, job),) = jobs.jobs
    assert (descriptor, job.strict) == (file, True)


async def test_a_damaged_image_is_refused(checker: SourceChecker, jobs: Jobs, file: int) -> None:
    os.write(file, PNG)
    jobs.error = UndecodableSource("cut off")
    with pytest.raises(UndecodableSource):
        await checker.check(file)


@pytest.mark.parametrize("content", [b"", b"text", b"GIF89a" + bytes(100)])
async def test_other_types_are_refused_without_a_worker(
    checker: SourceChecker, jobs: Jobs, file: int, content: bytes
) -> None:
    os.write(file, content)
    with pytest.raises(UnsupportedSource, match="accepted are png"):
        await checker.check(file)
    assert jobs.jobs == []


async def test_a_large_file_is_refused_without_a_worker(
    checker: SourceChecker, jobs: Jobs, file: int
) -> None:
    os.write(file, PNG + bytes(1000))
    with pytest.raises(SourceTooLarge, match="1000 are allowed"):
        await checker.check(file)
    assert jobs.jobs == []


async def test_the_digest_is_that_of_the_whole_file(checker: SourceChecker, file: int) -> None:
    content = os.urandom(3 * 1024 * 1024 + 7)
    os.write(file, content)
    assert await checker.digest(file) == hashlib.sha256(content).hexdigest()
