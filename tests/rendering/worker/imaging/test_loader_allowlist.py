"""Only loaders on the allow-list are enabled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pyvips
from PIL import Image

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import loader_allowlist
from proxy.rendering.worker.imaging.loader_allowlist import configure, hello, lock_loaders
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo


@pytest.fixture
def _restored() -> Iterator[None]:
    yield
    lock_loaders(studio.LIMITS.source_types)


@pytest.mark.usefixtures("_restored")
def test_only_the_loaders_asked_for_are_open() -> None:
    lock_loaders(("jpeg", "png"))
    assert {name.partition("load")[0] for name in loader_allowlist.open_loaders()} == {
        "jpeg",
        "png",
    }
    assert hello().source_types == ("jpeg", "png")


@pytest.mark.usefixtures("_restored")
def test_a_locked_type_is_unsupported_even_if_a_job_allows_it() -> None:
    lock_loaders(("png",))
    failure = studio.refused_or_known(studio.saved(Image.new("RGB", (8, 8)), "JPEG"))
    assert failure == JobFailure("unsupported", "jpeg is not accepted")


def test_the_dangerous_loaders_are_closed() -> None:
    families = {name.partition("load")[0] for name in loader_allowlist.open_loaders()}
    assert not families & {"svg", "uhdr", "csv", "matrix", "raw", "vips"}


@pytest.mark.parametrize("name", ["icon.svg", "gain-map.jpg"])
def test_libvips_itself_refuses_a_closed_loader(name: str) -> None:
    family = {"icon.svg": "svgload_buffer", "gain-map.jpg": "uhdrload_buffer"}[name]
    with pytest.raises(pyvips.Error, match="blocked"):
        pyvips.Operation.call(family, photo(name).read_bytes())


@pytest.mark.usefixtures("_restored")
def test_a_loader_that_remains_enabled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # csvload has no family of its own here: as if libvips had not blocked it.
    monkeypatch.setattr(loader_allowlist, "open_loaders", lambda: ("csvload", "pngload"))
    with pytest.raises(ConfigurationError, match="csvload"):
        lock_loaders(("png",))


def test_the_capabilities_name_the_types_that_decode() -> None:
    said = hello()
    assert said.libvips == ".".join(str(pyvips.version(part)) for part in range(3))
    assert set(said.source_types) >= {"jpeg", "png", "webp", "avif", "gif", "tiff"}
    assert "bmp" not in said.source_types


def test_heic_is_unsupported_where_the_codec_is_missing() -> None:
    answer = studio.refused_or_known(loader_allowlist._HEIC_SAMPLE)
    if "heic" in hello().source_types:
        assert not isinstance(answer, JobFailure)
    else:
        assert answer == JobFailure("unsupported", "heic is not accepted")


def test_a_bmp_is_unsupported() -> None:
    answer = studio.refused_or_known(studio.saved(Image.new("RGB", (8, 8)), "BMP"))
    assert answer == JobFailure("unsupported", "bmp is not accepted")


def test_a_worker_keeps_no_cache_and_one_thread() -> None:
    configure()
    assert pyvips.cache_get_max() == 0
    assert pyvips.concurrency_get() == 1
