"""Helpers of the doctor's tests: run one area, fake responses, and a probe that returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from proxy.app.doctor import open_installation
from proxy.doctor.check import Finding, Verdict
from proxy.doctor.probe import HttpProbe, ProbeResponse
from proxy.doctor.table import AREAS
from proxy.domain.errors import NoAnswer
from proxy.domain.media import Media
from proxy.settings import Settings
from proxy.storage.database.media_repository import SqlMediaRepository
from tests.support.server import Library, make_settings

Findings = dict[str, Finding]


async def run_area(
    first: str,
    settings: Settings,
    *,
    url: str = "http://127.0.0.1:1",
    public: str | HttpProbe = "",
    media_id: int | None = None,
    **parts: object,
) -> Findings:
    """Run the area whose first check has this name; ``parts`` replace those of the installation."""
    area = next(area for area in AREAS if area.names[0] == first)
    address = public if isinstance(public, str) else ""
    opening = open_installation(settings, None, url=url, public=address, media_id=media_id)
    async with opening as installation:
        if isinstance(public, HttpProbe):
            installation.public = public
        for name, part in parts.items():
            setattr(installation, name, part)
        return {finding.check: finding for finding in await area.run(installation)}


def problems(findings: Findings) -> dict[str, Verdict]:
    """Return the checks that warn or fail."""
    severe = (Verdict.WARN, Verdict.FAIL)
    return {name: one.verdict for name, one in findings.items() if one.verdict in severe}


def response(
    body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None
) -> ProbeResponse:
    """Return a response that took 10 ms."""
    return ProbeResponse(status, CIMultiDict(headers or {}), body, 0.01)


class FakeProbe(HttpProbe):
    """Answers requests by a function of method and target; None stands for no answer."""

    def __init__(self, answer: Callable[[str, str], ProbeResponse | None]) -> None:
        super().__init__("http://fake.example", timeout_s=1)
        self._answer = answer
        self.requests: list[tuple[str, str]] = []

    async def request(
        self, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> ProbeResponse:
        del headers
        self.requests.append((method, target))
        if found := self._answer(method, target):
            return found
        raise NoAnswer("Connection refused")

    async def handshake(self, target: str) -> int:
        return (await self.request(target)).status


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings for one worker and one stage; the data directory does not exist."""
    return make_settings(tmp_path / "data")


@pytest.fixture
async def photo(library: Library) -> Media:
    """A row of the library, with its facts."""
    settings: Any = make_settings(library.directory)
    async with SqlMediaRepository(settings.database_url, settings.database) as database:
        media = await database.find(library.ids["photo"])
    assert media is not None
    return media
