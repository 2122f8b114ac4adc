"""Moderation over HTTP, with real files: what is flagged, for whom, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from tests.metadata.files import png, text_chunk
from tests.support.server import Library, Serve, Serving
from tests.support.uploads import KEYED, MAIN, USERS, signed

pytestmark = pytest.mark.slow  # starts the confined processes

PATH = "/api/metadata/moderate"
GENERATED = png(
    text_chunk("parameters", "explicit Illegal fox, violence\nSteps: 20, Sampler: Euler, Seed: 1")
)
OWNER = 7
"""The user whose images the library has."""


@pytest.fixture
async def server(serve: Serve, tmp_path: Path) -> Serving:
    metadata = {
        "engine": "pillow",
        "engines": 1,
        "temp_root": str(tmp_path / "metadata"),
        "moderation_terms": ["violence", "illegal"],
    }
    return await serve(main=MAIN, users=USERS, metadata=metadata)


def form(image: bytes | None = None, **texts: str) -> FormData:
    made = FormData(texts, default_to_multipart=True)
    if image is not None:
        made.add_field("image", image, filename="x.png", content_type="image/png")
    return made


async def moderated(
    server: Serving, headers: Mapping[str, str], **body: Any
) -> tuple[int, dict[str, Any]]:
    async with server.client.post(PATH, headers=headers, **body) as answer:
        return answer.status, await answer.json()


async def test_words_of_the_prompt_need_a_review_and_the_metadata_is_beside_the_flags(
    server: Serving,
) -> None:
    status, answer = await moderated(server, signed(), data=form(GENERATED))
    assert status == 200, answer
    assert answer.keys() == {"requiresReview", "flags", "confidence", "metadata"}
    assert answer["requiresReview"] is True
    assert answer["flags"] == [
        {"type": "ai_generated", "source": "stable_diffusion", "confidence": 0.9},
        {"type": "concerning_prompt", "term": "violence", "confidence": 0.8, "basis": "rule"},
        {"type": "concerning_prompt", "term": "illegal", "confidence": 0.8, "basis": "rule"},
    ]
    assert answer["confidence"] == 0.9
    assert answer["metadata"]["ai_generation"]["seed"] == "1"
    assert [path for path in (Path(root_of(server))).rglob("*") if path.is_file()] == []


def root_of(server: Serving) -> str:
    return server.services.settings.metadata.temp_root


async def test_an_image_of_the_server_is_moderated_for_its_owner_and_the_key(
    server: Serving, library: Library
) -> None:
    media_id = library.ids["photo"]
    for headers in (signed(OWNER), KEYED):
        for body in (
            {"json": {"media_id": media_id}},
            {"json": {"media_id": str(media_id)}},
            {"data": form(media_id=str(media_id))},
        ):
            status, answer = await moderated(server, headers, **body)
            assert (status, answer["requiresReview"], answer["flags"]) == (200, False, [])
            assert answer["confidence"] == 0
            assert answer["metadata"]["format"] == "jpeg"
    status, answer = await moderated(server, signed(8), json={"media_id": media_id})
    assert (status, answer["code"]) == (404, "NOT_FOUND")
    status, other = await moderated(server, signed(8), json={"media_id": 10**18})
    assert (status, other) == (404, answer), "nobody can find out which ids exist"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"json": {}}, 400, "NO_FILE"),
        ({"json": {"media_id": "x"}}, 400, "INVALID_REQUEST"),
        ({"json": {"media_id": None}}, 400, "INVALID_REQUEST"),
        ({"json": [1]}, 400, "INVALID_REQUEST"),
        ({"data": form(other="x")}, 400, "NO_FILE"),
        ({"data": form(GENERATED, media_id="1")}, 400, "INVALID_REQUEST"),
        ({"data": form(b"no image")}, 400, "INVALID_FILE_TYPE"),
        ({"data": form(b"")}, 400, "EMPTY_FILE"),
    ],
)
async def test_a_request_that_names_no_image_says_why(
    server: Serving, body: dict[str, Any], status: int, code: str
) -> None:
    found, answer = await moderated(server, signed(), **body)
    assert (found, answer["code"]) == (status, code)
    assert answer["error"]


async def test_without_a_token_only_this_machine_may_send_an_image(server: Serving) -> None:
    status, _ = await moderated(server, {}, data=form(GENERATED))
    assert status == 200
    status, answer = await moderated(server, {"X-Forwarded-For": "192.0.2.7"}, data=form(GENERATED))
    assert (status, answer["code"]) == (401, "UNAUTHORIZED")
