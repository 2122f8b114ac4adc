"""``smartserve purge``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.support.commands import fetch, run, running
from tests.support.server import SAMPLES, connected, make_settings, standing
from tests.support.waiting import eventually, wait_until

TARGETS = ("size=grid", "size=grid&dpr=2", "size=thumbnail", "w=64")


async def render(data_dir: Path, *media_ids: int) -> None:
    """Store four renditions of each image."""
    async with standing(make_settings(data_dir)) as (_, _, server), connected(server) as client:
        for media_id in media_ids:
            for target in TARGETS:
                async with client.get(f"/serve/{media_id}?{target}") as answer:
                    await answer.read()
        await eventually(lambda: renditions(data_dir) == len(media_ids) * len(TARGETS))


def renditions(data_dir: Path) -> int:
    """Count the stored renditions."""
    return sum(1 for path in (data_dir / "renditions").glob("??/*/*") if path.is_file())


def test_a_purge_by_user_and_size_leaves_other_renditions(data_dir: Path, invoke: Invoke) -> None:
    asyncio.run(render(data_dir, 2, 3))
    # User 7 owns all four images of the library.
    by_size = ("purge", "--user-id", "7", "--size", "grid", "--data-dir", data_dir)
    dropped = dict(line.split("\t") for line in invoke(*by_size).stdout.splitlines())
    assert dropped == {"1": "0 dropped", "2": "2 dropped", "3": "2 dropped", "4": "0 dropped"}
    by_id = invoke("purge", "3", "99", "--data-dir", data_dir)
    assert by_id.stdout == "3\t2 dropped\n99\t0 dropped\n"
    assert renditions(data_dir) == 2


def test_a_purge_of_everything_deletes_all_files(data_dir: Path, invoke: Invoke) -> None:
    asyncio.run(render(data_dir, 2, 3))
    done = invoke("purge", "--all", "--data-dir", data_dir)
    assert done.code == 0
    assert "purged on all servers" in done.stdout
    assert renditions(data_dir) == 0
    assert not [path for path in (data_dir / "renditions" / "purged").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name media ids, --user-id, or --all"),
        (["1", "--all"], "name nothing else"),
        (["--all", "--size", "grid"], "name nothing else"),
        (["1", "--size", "huge"], "one of thumbnail, small"),
        (["1", "--size", ""], "one of thumbnail, small"),
    ],
)
def test_a_purge_without_images_or_with_an_unknown_size_is_a_usage_error(
    arguments: list[str], message: str, data: Path, invoke: Invoke
) -> None:
    done = invoke("purge", *arguments, "--data-dir", data)
    assert done.code == 2
    assert message in done.stderr


@pytest.mark.slow
def test_a_purge_reaches_the_memory_of_a_running_server(data: Path) -> None:
    run("import", SAMPLES / "logo.png", "--data-dir", data)
    with running("--data-dir", data, SMARTSERVE_UPGRADES__ENABLED="false") as (_, base):
        url = f"{base}/serve/1?size=grid"
        fetch(url)
        assert fetch(url)[2].endswith("detail=memory")
        assert run("purge", "1", "--data-dir", data).stdout == "1\t1 dropped\n"
        wait_until(lambda: not fetch(url)[2].endswith("detail=memory"))
