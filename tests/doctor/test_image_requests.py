"""Requests for one image: stable ETags, and the media types that a client may receive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from proxy.doctor.http_client import ProbeResponse
from proxy.doctor.image_requests import ACCEPT, allowed_types, request_image
from proxy.domain.errors import NoAnswer
from proxy.domain.media import Media
from tests.doctor.conftest import FakeProbe, response
from tests.support.server import make_settings


def answering(etags: Iterator[str]) -> FakeProbe:
    """Return a probe whose responses to a named format have these ETags, in order."""

    def answer(_method: str, target: str) -> ProbeResponse:
        return response(headers={"ETag": next(etags)} if "format=" in target else {})

    return FakeProbe(answer)


async def test_one_url_is_requested_for_all_clients() -> None:
    probe = answering(iter(['"a"'] * 4))
    responses = await request_image(probe, 7, "token")
    negotiated = [target for _, target in probe.requests if "format=" not in target]
    assert negotiated == ["/serve/7?w=64&doctor=token"] * len(ACCEPT)
    assert list(responses.negotiated) == list(ACCEPT)


async def test_requests_are_repeated_if_a_final_replaces_the_draft() -> None:
    etags = iter(['"draft"', '"draft"', '"final"', '"final"', *['"final"'] * 4])
    responses = await request_image(answering(etags), 7, "token")
    assert responses.named.header("ETag") == responses.part.header("ETag") == '"final"'


async def test_an_etag_that_never_repeats_is_given_up() -> None:
    with pytest.raises(NoAnswer, match="different ETag"):
        await request_image(answering(f'"{number}"' for number in count()), 7, "token")


def test_a_transparent_image_is_never_sent_as_jpeg(photo: Media) -> None:
    encoders = make_settings(Path("unused")).encoders
    assert photo.facts is not None
    transparent = replace(photo, facts=replace(photo.facts, has_alpha=True))
    assert allowed_types(encoders, transparent)["anything"] == ("image/png",)


def test_an_image_without_facts_may_have_any_type_that_the_client_shows(photo: Media) -> None:
    encoders = make_settings(Path("unused")).encoders
    unknown = allowed_types(encoders, replace(photo, facts=None))
    assert set(unknown["anything"]) == {"image/jpeg", "image/png", "image/gif"}
    assert "image/avif" not in unknown["safari"]
