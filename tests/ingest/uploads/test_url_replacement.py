"""Replacement of upload paths in profiles by addresses."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest

from tests.storage.database.backends import MariaDBBackend
from tests.support.mariadb import MariaDB
from tests.support.server import Serve, Serving
from tests.support.uploads import KEYED, LOGO, MAIN, PHOTO, USERS, temp_files, upload
from tests.support.waiting import eventually


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


async def test_addresses_replace_paths_and_files_are_deleted(server: Serving) -> None:
    images = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO, "site_image": PHOTO})
    assert server.main is not None
    replacer = server.main.replacer
    for image in images[:2]:
        target = f"/api/media/complete/{image['id']}"
        body = {"media_id": str(image["id"] + 100)}
        async with server.client.post(target, json=body, headers=KEYED) as answer:
            assert answer.status == 200
    before = temp_files(server)
    dry = await replacer.run(dry=True)
    assert temp_files(server) == before
    told = await asyncio.gather(*(replacer.run() for _ in range(3)))
    assert sum(one.completed for one in told) == dry.completed == 2
    changed = {place: rows for place, rows in dry.changed.items() if rows}
    assert changed == {"user_profiles.profile_image_path": 1, "artist_profiles.logo_path": 1}
    (left,) = temp_files(server)
    assert left.parent.name == "sites"
    assert (await replacer.run()).completed == 0


def foreign_database(mariadb: MariaDB) -> tuple[MariaDBBackend, str]:
    """Create a platform's database with one profile; return its backend and its URL."""
    backend = MariaDBBackend(mariadb)
    url = backend.empty()
    profiles = "CREATE TABLE user_profiles (user_id BIGINT, profile_image_path VARCHAR(255));"
    backend.run(url, profiles + "INSERT INTO user_profiles VALUES (456, NULL)")
    return backend, url


async def test_columns_missing_in_a_foreign_database_are_reported(
    serve: Serve, mariadb: MariaDB
) -> None:
    backend, url = foreign_database(mariadb)
    server = await serve(main={**MAIN, "url": url}, users=USERS)
    (image,) = await upload(server)
    told = backend.run(url, "SELECT profile_image_path FROM user_profiles")
    assert told == [image["image_path"]]
    target = f"/api/media/complete/{image['id']}"
    async with server.client.post(target, json={"media_id": "7"}, headers=KEYED) as answer:
        assert answer.status == 200
    assert server.main is not None
    report = await server.main.replacer.run()
    assert asdict(report) == {
        "completed": 1,
        "rewritten": 0,
        "changed": {"user_profiles.profile_image_path": 1},
        "absent": [
            "user_profiles.header_image_path",
            "artist_profiles.logo_path",
            "promoter_profiles.logo_path",
            "site_media.media_path",
        ],
        "unreadable": [],
        "failed": {},
    }


async def test_addresses_are_rewritten_beside_site_media_that_have_no_user(
    serve: Serve, mariadb: MariaDB
) -> None:
    backend, url = foreign_database(mariadb)
    backend.run(url, "CREATE TABLE site_media (id BIGINT PRIMARY KEY, media_path VARCHAR(500))")
    server = await serve(main={**MAIN, "url": url}, users=USERS)
    (image,) = await upload(server)
    target = f"/api/media/complete/{image['id']}"
    async with server.client.post(target, json={"media_id": "7"}, headers=KEYED) as answer:
        assert answer.status == 200
    assert server.main is not None
    replacer = server.main.replacer
    assert (await replacer.run(again=True)).completed == 1
    before = backend.run(url, "SELECT profile_image_path FROM user_profiles")
    replacer.base_url = "https://new.example.org/api/images"
    report = await replacer.run(again=True)
    assert (report.rewritten, report.failed) == (1, {})
    (address,) = backend.run(url, "SELECT profile_image_path FROM user_profiles")
    assert address != before[0]
    assert address.startswith("https://new.example.org/api/images/7")


async def test_a_running_server_replaces_addresses_regularly(server: Serving) -> None:
    (image,) = await upload(server)
    async with server.client.post(
        f"/api/media/complete/{image['id']}", json={"media_id": "5"}, headers=KEYED
    ):
        pass
    main = server.main
    assert main is not None
    async with main.running("http://pictures.example.org:81/", server.services.metrics):
        await eventually(lambda: not temp_files(server))
        await eventually(lambda: server.metric("smartserve_pending_images", status="complete") == 1)
    assert main.replacer.base_url == "http://pictures.example.org:81/api/images"
