"""The checks of the other web servers from which originals may be fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.app.originals import build_originals, on_web_servers
from proxy.doctor.check import Finding, Verdict
from proxy.doctor.http_originals import check_http_originals
from proxy.doctor.installation import Installation
from proxy.settings import HttpSettings, Settings
from proxy.storage.originals.local_store import LocalOriginals
from tests.support.web_origin import PRIVATE, PUBLIC, WebOrigin, web_origin


@pytest.fixture
async def origin() -> AsyncIterator[WebOrigin]:
    async with web_origin() as running:
        yield running
        assert running.secrets == 0


async def findings(section: HttpSettings) -> list[Finding]:
    settings = Settings(http=section)
    local = LocalOriginals(settings.storage_root, settings.storage)
    async with aclosing(build_originals(settings, local)) as originals:
        http = on_web_servers(originals)
        parts: Any = SimpleNamespace(settings=settings, http_originals=http)
        return await check_http_originals.run(cast("Installation", parts))


async def test_without_hosts_nothing_is_checked() -> None:
    assert {one.verdict for one in await findings(HttpSettings())} == {Verdict.SKIPPED}


async def test_a_host_that_answers_is_reachable(origin: WebOrigin) -> None:
    # Whatever it answers.
    origin.status = 403
    reached, private = await findings(origin.settings())
    assert (reached.verdict, reached.seen) == (Verdict.OK, "1 host can be reached")
    assert private.verdict is Verdict.WARN
    assert f"{PUBLIC}/32" in private.seen


async def test_a_host_with_an_address_that_is_not_allowed_is_named(origin: WebOrigin) -> None:
    failed, _ = await findings(origin.settings(hosts=[PUBLIC, PRIVATE]))
    assert failed.verdict is Verdict.FAIL
    assert f"{PRIVATE}: " in failed.seen
    assert "is not allowed" in failed.seen
    assert f"{PUBLIC}: " not in failed.seen
    assert "http.allow_private" in failed.advice


async def test_patterns_are_not_asked() -> None:
    asked, safety = await findings(HttpSettings(hosts=("*.img.example.org",)))
    assert asked.verdict is Verdict.SKIPPED
    assert safety.verdict is Verdict.OK


async def test_a_port_without_encryption_is_reported() -> None:
    _, safety = await findings(HttpSettings(hosts=("*.img.example.org",), ports=(443, 80)))
    assert safety.verdict is Verdict.WARN
    assert "without encryption" in safety.seen
