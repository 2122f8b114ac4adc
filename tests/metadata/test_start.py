"""Starting the processes of metadata: what is missing, refused and removed at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.metadata.extraction import ExtractOptions
from tests.metadata.files import jpeg
from tests.metadata.opened import extract, service_of
from tests.metadata.test_content_credentials import certificates


async def test_an_exiftool_that_is_missing_is_explained(tmp_path: Path) -> None:
    environment = {"EXIFTOOL_PATH": "/no/exiftool"}
    async with service_of(tmp_path, environment=environment) as service:
        assert "EXIFTOOL_PATH" in service.missing
        found = await extract(service, jpeg())
        assert found.processing_insights["fallback_extraction"] is True


async def test_the_folder_is_empty_after_the_service_has_ended(tmp_path: Path) -> None:
    async with service_of(tmp_path, engine="pillow") as service:
        await extract(service, jpeg())
    assert list((tmp_path / "metaextract").iterdir()) == []


async def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metaextract").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="link"):
        async with service_of(tmp_path):
            pass


async def test_a_trust_list_that_cannot_be_read_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="c2pa_trust_list"):
        async with service_of(tmp_path, c2pa_trust_list="/no/list.pem"):
            pass


async def test_results_depend_on_the_release_and_on_the_content_of_the_trust_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuers = tmp_path / "issuers.pem"

    async def variant() -> str:
        opening = service_of(tmp_path, engine="pillow", c2pa_trust_list=str(issuers))
        async with opening as service:
            return service.variant(ExtractOptions("a.jpg"))

    issuers.write_text("")
    first, same = await variant(), await variant()
    assert first == same
    issuers.write_bytes(certificates()[2])
    changed = await variant()
    monkeypatch.setattr("proxy.metadata.service.__version__", "0.0.9")
    assert len({first, changed, await variant()}) == 3


async def test_the_engines_that_should_run_are_counted_even_if_none_can(tmp_path: Path) -> None:
    environment = {"EXIFTOOL_PATH": "/no/exiftool"}
    async with service_of(tmp_path, environment=environment, engines=2) as service:
        figures = service.statistics()
    assert (figures["engines_up"], figures["engines_expected"]) == (0, 2)
