"""Faces of images in a running server: when they are detected, and what happens if not."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proxy.domain.media import DataType, Face, Focus, Media
from proxy.domain.variant import plan_geometry
from proxy.library.import_files import ImportedFile
from tests.support.faces import ADMIRAL, GIRL, models
from tests.support.server import Serve, Serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

WAIT: Mapping[str, Any] = {"wait_s": 600}
"""A busy machine is slow, and the tests are about the result."""


@pytest.fixture
def faces() -> Mapping[str, Any]:
    return {**WAIT, "directory": str(models())}


async def imported(server: Serving, path: Path) -> int:
    taken = await server.services.importer.import_file(path, user_id=7, data_type=DataType.PROFILE)
    assert isinstance(taken, ImportedFile), taken
    return taken.media_id


async def row(server: Serving, media_id: int) -> Media:
    found = await server.services.storage.database.find(media_id)
    assert found is not None
    return found


async def known(server: Serving, media_id: int) -> tuple[Face, ...] | None:
    facts = (await row(server, media_id)).known_facts
    return None if facts is None else facts.faces


def detections(server: Serving, outcome: str) -> float:
    return server.metric("smartserve_face_detections_total", outcome=outcome)


async def get(server: Serving, path: str) -> tuple[int, Mapping[str, str], bytes]:
    async with server.client.get(path) as answer:
        return answer.status, answer.headers, await answer.read()


async def test_the_first_crop_keeps_the_face_and_only_crops_need_a_detection(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces=faces)
    media_id = await imported(server, GIRL)
    # Neither is cropped.
    for size in ("detail", "grid"):
        assert (await get(server, f"/serve/{media_id}?size={size}"))[0] == 200
    assert await known(server, media_id) is None
    assert server.metric("smartserve_face_workers") == 0
    status, headers, _ = await get(server, f"/serve/{media_id}?size=thumbnail")
    assert (status, "max-age=31536000" in headers["Cache-Control"]) == (200, True)
    (face,) = await known(server, media_id) or ()
    media = await row(server, media_id)
    assert media.known_facts is not None
    box = server.services.rendering.rules.sizes["thumbnail"]
    geometry = plan_geometry(box, media.known_facts, media.choices)
    left = geometry.left / geometry.scaled_width
    assert left <= face.left
    assert face.left + face.width <= left + geometry.width / geometry.scaled_width
    await get(server, f"/serve/{media_id}?size=header")
    assert detections(server, "faces") == 1


async def test_simultaneous_requests_share_one_detection(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces=faces)
    media_id = await imported(server, ADMIRAL)
    paths = [f"/serve/{media_id}?size={size}" for size in ("header", "thumbnail") * 5]
    answers = await asyncio.gather(*(get(server, path) for path in paths))
    assert {status for status, *_ in answers} == {200}
    assert detections(server, "faces") == 1


async def test_an_image_without_faces_is_searched_once(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces=faces)
    photo = (await server.services.storage.repository.newest(before=99, limit=9))[-1].id
    assert await known(server, photo) is None
    for _ in range(2):
        await get(server, f"/serve/{photo}?size=thumbnail")
    assert await known(server, photo) == ()
    assert (detections(server, "faces"), detections(server, "none")) == (0, 1)


async def test_stored_faces_are_used_after_a_restart_without_another_detection(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces=faces)
    media_id = await imported(server, GIRL)
    _, first, _ = await get(server, f"/serve/{media_id}?size=thumbnail")
    again = await serve(faces=faces)
    _, second, _ = await get(again, f"/serve/{media_id}?size=thumbnail")
    assert first["ETag"] == second["ETag"]
    assert detections(again, "faces") == 0


async def test_a_row_that_was_cached_before_another_server_detected_is_read_again(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    one, other = await serve(faces=faces), await serve(faces=faces)
    media_id = await imported(one, GIRL)
    assert await known(other, media_id) is None
    _, first, _ = await get(one, f"/serve/{media_id}?size=header")
    _, second, _ = await get(other, f"/serve/{media_id}?size=header")
    assert first["ETag"] == second["ETag"]
    assert detections(other, "faces") == 0


async def test_an_upgraded_server_does_not_serve_what_was_cropped_before(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    old = await serve(faces={"enabled": False})
    media_id = await imported(old, GIRL)
    _, before, _ = await get(old, f"/serve/{media_id}?size=header")
    new = await serve(faces=faces)
    _, after, _ = await get(new, f"/serve/{media_id}?size=header")
    assert before["ETag"] != after["ETag"]
    # Switched off again, the stored faces have no effect.
    off = await serve(faces={"enabled": False})
    _, again, _ = await get(off, f"/serve/{media_id}?size=header")
    assert again["ETag"] == before["ETag"]


async def test_an_editors_focal_point_needs_no_detection(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces=faces)
    media_id = await imported(server, GIRL)
    await server.services.storage.choices.set_focus(media_id, Focus(0.1, 0.9))
    server.services.storage.changed(media_id)
    await get(server, f"/serve/{media_id}?size=header")
    assert await known(server, media_id) is None


async def test_without_the_model_or_if_it_is_damaged_crops_are_served(
    serve: Serve, tmp_path: Path
) -> None:
    server = await serve(faces={**WAIT, "directory": str(tmp_path)})
    media_id = await imported(server, GIRL)
    _, without, _ = await get(server, f"/serve/{media_id}?size=header")
    assert "max-age=31536000" in without["Cache-Control"]
    models()
    (tmp_path / "face_detection_full_range.tflite").write_bytes(b"damaged")
    server = await serve(faces={**WAIT, "directory": str(tmp_path)})
    for _ in range(3):
        status, headers, _ = await get(server, f"/serve/{media_id}?size=header")
        assert (status, headers["Cache-Control"]) == (200, "public, max-age=30")
        assert headers["ETag"] == without["ETag"]
        assert "Last-Modified" not in headers
    assert detections(server, "failed") == 1, "the next try is in a minute"


async def test_a_request_does_not_wait_longer_than_allowed_and_the_next_one_has_the_faces(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces={**faces, "wait_s": 0})
    media_id = await imported(server, GIRL)
    status, late, _ = await get(server, f"/serve/{media_id}?size=header")
    assert (status, late["Cache-Control"]) == (200, "public, max-age=30")

    def stored() -> bool:
        cached = server.services.storage.database.peek(media_id)
        return bool(cached and cached[0].facts and cached[0].facts.faces)

    await eventually(stored)
    _, final, _ = await get(server, f"/serve/{media_id}?size=header")
    assert "max-age=31536000" in final["Cache-Control"]
    assert final["ETag"] != late["ETag"]
    assert detections(server, "late") == 1


async def test_all_sizes_rendered_in_advance_have_the_crops_of_the_faces(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces=faces)
    media_id = await imported(server, ADMIRAL)
    await server.services.serving.warmer.warm(media_id)
    assert detections(server, "faces") == 1
    renders = server.renders()
    await get(server, f"/serve/{media_id}?size=header&format=webp")
    assert server.renders() == renders


async def test_faces_that_the_database_does_not_store_are_kept_in_memory(
    serve: Serve, faces: Mapping[str, Any], data_dir: Path
) -> None:
    server = await serve(faces=faces)
    media_id = await imported(server, GIRL)
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER refused BEFORE INSERT ON media_faces"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    for size in ("header", "thumbnail"):
        assert (await get(server, f"/serve/{media_id}?size={size}"))[0] == 200
        server.services.storage.changed(media_id)
    assert detections(server, "faces") == 1


async def test_the_process_ends_after_idling_and_starts_again(
    serve: Serve, faces: Mapping[str, Any]
) -> None:
    server = await serve(faces={**faces, "idle_s": 0.05})
    for path in (GIRL, ADMIRAL):
        media_id = await imported(server, path)
        assert (await get(server, f"/serve/{media_id}?size=thumbnail"))[0] == 200
        await eventually(lambda: server.metric("smartserve_face_workers") == 0)
    assert detections(server, "faces") == 2


async def test_a_crop_with_the_face_shows_it(serve: Serve, faces: Mapping[str, Any]) -> None:
    """The bytes, not the plan: a header of a portrait shows skin in its middle."""
    server = await serve(faces=faces)
    media_id = await imported(server, ADMIRAL)
    _, _, body = await get(server, f"/serve/{media_id}?size=header&format=png")
    with Image.open(io.BytesIO(body)) as image:
        middle = image.convert("RGB").resize((9, 3), Image.Resampling.BOX).getpixel((4, 1))
    assert isinstance(middle, tuple)
    red, _, blue = middle
    assert red > blue + 30
