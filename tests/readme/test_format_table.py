"""README lists the formats that the code supports."""

from __future__ import annotations

from typing import get_args

from proxy.domain.formats import SOURCE_TRAITS
from proxy.rendering.worker.imaging.libvips import DECODED_ELSEWHERE
from proxy.settings.sections import SourceType
from tests.readme.format_table import README, replaced, table


def test_the_table_of_formats_is_what_the_code_generates() -> None:
    readme = README.read_text()
    assert replaced(readme) == readme


def test_every_type_that_can_be_accepted_has_a_row() -> None:
    assert set(SOURCE_TRAITS) == set(get_args(SourceType))
    for traits in SOURCE_TRAITS.values():
        assert f"| {traits.title} |" in table()


def test_the_decoders_of_the_table_are_those_of_the_workers() -> None:
    packages = {"PIL": "Pillow", "pyjpegxl": "pyjpegxl"}
    for name, traits in SOURCE_TRAITS.items():
        package = DECODED_ELSEWHERE.get(name)
        assert traits.decoder.startswith(packages[package] if package else ("libvips", "pi-heif"))
