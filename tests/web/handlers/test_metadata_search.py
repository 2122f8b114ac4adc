"""Stored metadata over HTTP: who sees what, filters, pages and tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.metadata.media_tags import tags_of
from tests.support.extractions import metadata_of
from tests.support.server import Background, Library, Serve, Serving
from tests.support.uploads import KEYED, MAIN, USERS, signed, token

SEARCH = "/api/metadata/search"
OWNER = 7
"""The user whose images the library has."""
MIDJOURNEY = {"Description": "a fox --v 6.1 --style raw --q 2"}
DIFFUSION = {"parameters": "a crow\nSteps: 20, Sampler: Euler a, Seed: 7, Model: RealVis"}


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


async def store(server: Serving, media_id: int, texts: Mapping[str, Any], **members: Any) -> None:
    metadata = metadata_of(texts, **members)
    tags = tags_of(metadata["ai_generation"])
    assert await server.services.storage.metadata.save(media_id, metadata, tags)


@pytest.fixture
async def ids(server: Serving, library: Library) -> list[int]:
    """The first three images of the library, with metadata; ascending."""
    return await filled(server, library)


async def filled(server: Serving, library: Library) -> list[int]:
    found = sorted(library.ids.values())[:3]
    for media_id, texts in zip(found, (MIDJOURNEY, DIFFUSION, {}), strict=True):
        await store(server, media_id, texts)
    return found


@pytest.fixture(scope="session")
def shown(keyed_background: Background, library: Library) -> list[int]:
    """The images of `ids` on the server `keyed`, with the same metadata."""

    async def fill() -> list[int]:
        async with keyed_background.serving() as keyed:
            return await filled(keyed, library)

    return keyed_background.portal.call(fill)


async def get(
    server: Serving, path: str, headers: Mapping[str, str] = KEYED, **query: str
) -> tuple[int, dict[str, Any]]:
    async with server.client.get(f"{path}?{urlencode(query)}", headers=headers) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.status, await answer.json()


async def found(server: Serving, headers: Mapping[str, str] = KEYED, **query: str) -> list[int]:
    status, answer = await get(server, SEARCH, headers, **query)
    assert status == 200, answer
    return [one["id"] for one in answer["images"]]


async def test_an_image_has_the_names_of_the_requirements_and_no_path(
    keyed: Serving, shown: list[int]
) -> None:
    status, answer = await get(keyed, SEARCH, aiGenerator="midjourney")
    assert status == 200
    [image] = answer["images"]
    assert answer["next"] is None
    assert {image["id"], image["mediaId"]} == {shown[0]}
    assert (image["isAiGenerated"], image["aiGenerator"]) == (True, "midjourney")
    assert (image["prompt"], image["mjVersion"], image["mjQuality"]) == ("a fox", "6.1", 2.0)
    assert image["checkpointModel"] is None
    assert image["user"] == {"id": OWNER, "name": None}
    assert {"tag": "style:raw"} in image["tags"]
    assert image["createdAt"].endswith(("Z", "+00:00"))
    assert "filepath" not in image
    assert "rawMetadata" not in image


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [2, 1, 0]),
        ({"hasPrompt": "true"}, [1, 0]),
        ({"hasPrompt": "false"}, [2]),
        ({"hasPrompt": ""}, [2, 1, 0]),
        ({"mjVersion": "6.1"}, [0]),
        ({"minQuality": "1.5"}, [0]),
        ({"minQuality": "3"}, []),
        ({"tags": "ai-midjourney,model:realvis"}, [1, 0]),
        ({"tags": "generator:midjourney", "hasPrompt": "false"}, []),
        ({"aiGenerator": "stable_diffusion", "tags": "model-realvis, "}, [1]),
        ({"aiGenerator": "unknown"}, [2]),
    ],
)
async def test_filters_are_combined(
    keyed: Serving, shown: list[int], query: dict[str, str], expected: list[int]
) -> None:
    assert await found(keyed, KEYED, **query) == [shown[at] for at in expected]


async def test_pages_follow_each_other_by_the_cursor(keyed: Serving, shown: list[int]) -> None:
    _, first = await get(keyed, SEARCH, limit="2")
    assert first["next"] == str(shown[1])
    _, last = await get(keyed, SEARCH, limit="2", cursor=first["next"])
    assert [one["id"] for one in (*first["images"], *last["images"])] == shown[::-1]
    assert last["next"] is None


async def test_users_find_their_own_images_only(keyed: Serving, shown: list[int]) -> None:
    assert await found(keyed, signed(OWNER)) == shown[::-1]
    assert await found(keyed, signed(OWNER + 1)) == []
    path = f"/api/metadata/{shown[0]}"
    assert (await get(keyed, path, signed(OWNER)))[0] == 200
    others, unknown = [
        await get(keyed, path, signed(OWNER + 1)) for path in (path, "/api/metadata/999999")
    ]
    assert others == unknown
    assert (others[0], others[1]["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", [SEARCH, "/api/metadata/1"])
async def test_nobody_reads_metadata_without_a_token(keyed: Serving, path: str) -> None:
    status, answer = await get(keyed, path, {})
    assert (status, answer["code"]) == (401, "UNAUTHORIZED")


async def test_an_image_has_everything_that_its_file_says(keyed: Serving, shown: list[int]) -> None:
    status, answer = await get(keyed, f"/api/metadata/{shown[0]}")
    assert status == 200
    assert answer["rawMetadata"] == metadata_of(MIDJOURNEY)
    assert answer["engine"] == "exiftool 13.59"


async def test_what_a_tier_may_not_see_is_withheld(server: Serving, ids: list[int]) -> None:
    groups = {"IFD0": {"Make": "Canon"}, "Canon": {"SerialNumber": 7}}
    await store(server, ids[0], MIDJOURNEY, groups=groups)
    free = {"Authorization": f"Bearer {token(OWNER, tier='free')}"}
    path = f"/api/metadata/{ids[0]}"
    raw = (await get(server, path, free))[1]["rawMetadata"]
    assert raw["groups"] == {"IFD0": {"Make": "Canon"}}
    assert raw["withheld"]["groups"] == ["Canon"]
    assert (await get(server, path))[1]["rawMetadata"]["groups"] == groups


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ({"aiGenerator": "dalle"}, "one of midjourney, "),
        ({"hasPrompt": "yes"}, "true or false"),
        ({"mjVersion": "6" * 33}, "at most 32 characters"),
        ({"minQuality": "-1"}, "a number from 0"),
        ({"minQuality": "inf"}, "a number from 0"),
        ({"tags": "a," * 20}, "at most 20 tags"),
        ({"limit": "0"}, "from 1 to 100"),
        ({"limit": "101"}, "from 1 to 100"),
        ({"cursor": "x"}, "digits"),
    ],
)
async def test_a_bad_parameter_is_named_with_what_is_allowed(
    keyed: Serving, query: dict[str, str], allowed: str
) -> None:
    status, answer = await get(keyed, SEARCH, KEYED, **query)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
    assert answer["parameter"] in query
    assert allowed in answer["allowed"]


@pytest.mark.parametrize(("media_id", "status"), [("9" * 19, 404), ("0", 404), ("x", 400)])
async def test_an_id_that_no_image_has_is_a_problem(
    keyed: Serving, media_id: str, status: int
) -> None:
    assert (await get(keyed, f"/api/metadata/{media_id}"))[0] == status


async def test_without_metadata_there_are_no_routes(serve: Serve) -> None:
    server = await serve(main=MAIN, users=USERS, metadata={"enabled": False})
    async with server.client.get(SEARCH, headers=KEYED) as answer:
        assert answer.status == 404
