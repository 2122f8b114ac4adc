"""Figures: read from a live server's page, and reckoned with."""

from __future__ import annotations

import asyncio
import math

import pytest

from proxy.doctor.http_client.figures import read_figures
from proxy.domain.errors import NoAnswer
from tests.support.server import Serve

PAGE = b"""# TYPE smartserve_first_byte_seconds histogram
smartserve_first_byte_seconds_bucket{source="disk",le="0.1"} 90
smartserve_first_byte_seconds_bucket{source="disk",le="0.5"} 99
smartserve_first_byte_seconds_bucket{source="disk",le="+Inf"} 100
smartserve_first_byte_seconds_bucket{source="render",le="0.1"} 0
smartserve_first_byte_seconds_bucket{source="render",le="0.5"} 0
smartserve_first_byte_seconds_bucket{source="render",le="+Inf"} 100
# TYPE smartserve_rejections_total counter
smartserve_rejections_total{reason="pressure"} 2
smartserve_rejections_total{reason="shutdown"} 0
"""


def test_totals_and_labels() -> None:
    figures = read_figures(PAGE)
    assert figures.total("smartserve_rejections_total") == 2
    assert figures.by("smartserve_rejections_total", "reason") == {"pressure": 2}
    assert figures.total("smartserve_none") == 0


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    figures = read_figures(PAGE)
    name = "smartserve_first_byte_seconds"
    disk = [figures.quantile(name, part, lambda x: x["source"] == "disk") for part in (0.9, 0.99)]
    assert disk == [0.1, 0.5]
    assert figures.quantile(name, 0.99) == math.inf
    assert math.isnan(figures.quantile("smartserve_none", 0.99))


@pytest.mark.parametrize("page", [b"\xff\xfe", b"<html>{", b'a{b="c"'])
def test_what_is_no_page_of_metrics_is_told(page: bytes) -> None:
    with pytest.raises(NoAnswer, match="no page of metrics"):
        read_figures(page)


async def test_the_page_of_a_live_server_is_read(serve: Serve) -> None:
    server = await serve(workers={"count": 2})
    # It serves from its first worker on; the second comes a moment later.
    async with asyncio.timeout(10):
        while server.metric("smartserve_workers") < 2:  # noqa: ASYNC110 - a gauge tells nobody
            await asyncio.sleep(0.01)
    async with server.client.get("/metrics") as answer:
        figures = read_figures(await answer.read())
    assert figures.total("smartserve_workers") == 2
    assert [one.labels["version"] for one in figures.of("smartserve_build_info")]
