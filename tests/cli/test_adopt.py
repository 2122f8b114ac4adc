"""``smartserve adopt``."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.library.adoption.trees import BULK, LIBRARY, photo, premade, save
from tests.support.commands import SMARTSERVE, fetch, run, running
from tests.support.waiting import wait_until


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A storage tree of another system: one image with its sizes, and one without."""
    root = tmp_path / "old"
    save(photo(), root / BULK / "sunset-123.jpg")
    premade(photo(), root / LIBRARY / "sunset-123", ("jpg",))
    save(photo(900, name="kodak-05.jpg"), root / BULK / "456-event-789.jpg")
    return root


def test_images_are_adopted_with_their_sizes_as_fallbacks(
    data: Path, tree: Path, invoke: Invoke
) -> None:
    done = invoke("adopt", tree, "--data-dir", data, "--user-id", "5", "--no-reserve")
    assert (done.code, done.stderr.strip()) == (0, "adopt: 2 adopted, 0 known, 0 skipped")
    ids, paths, texts = zip(*(line.split("\t") for line in done.stdout.splitlines()), strict=True)
    assert sorted(ids) == ["1", "2"]
    assert dict(zip(paths, texts, strict=True)) == {
        f"{BULK}/456-event-789.jpg": "900x600 jpeg",
        f"{BULK}/sunset-123.jpg": "1536x1024 jpeg; fallbacks: 1200x800 jpeg, 300x300 jpeg, "
        "480x320 jpeg, 500x333 jpeg",
    }


@pytest.mark.parametrize("name", ["aaa-large.png", "zzz-large.png"])
def test_a_file_over_the_limit_is_named_and_the_rest_is_adopted(
    data: Path, tree: Path, invoke: Invoke, name: str
) -> None:
    (tree / BULK / name).write_bytes(bytes(3_000_000))
    limit = {"SMARTSERVE_STORAGE__MAX_ORIGINAL_BYTES": "2500000"}
    done = invoke("adopt", tree, "--data-dir", data, "--no-reserve", **limit)
    assert done.code == 1, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert f"skipped {BULK}/{name}: " in done.stderr
    assert "adopt: 2 adopted, 0 known, 1 skipped" in done.stderr


@pytest.mark.slow
def test_an_adopted_image_is_served_although_its_original_is_lost(data: Path, tree: Path) -> None:
    lines = run("adopt", tree, "--data-dir", data, "--json").stdout.splitlines()
    # Images get their ids in the order in which they were read.
    ids = {one["path"].rpartition("/")[2]: one["id"] for one in map(json.loads, lines)}
    (lost,) = data.glob("originals/bulk/*/sunset*")
    lost.unlink()
    with running("--data-dir", data) as (_, base):
        assert fetch(f"{base}/serve/{ids['456-event-789.jpg']}")[0] == "image/jpeg"
        grid = f"{base}/serve/{ids['sunset-123.jpg']}?size=grid"
        media_type, _, status = fetch(grid, "image/webp")
        assert (media_type, status) == ("image/webp", "smartserve; hit; detail=fallback")


def test_a_second_run_recognises_all_images(data: Path, tree: Path, invoke: Invoke) -> None:
    invoke("adopt", tree, "--data-dir", data, "--no-reserve")
    lines = invoke("adopt", tree, "--data-dir", data, "--no-reserve").stdout.splitlines()
    assert [line.endswith("(known)") for line in lines] == [True, True]


def test_json_has_one_object_for_each_image(data: Path, tree: Path, invoke: Invoke) -> None:
    lines = invoke("adopt", tree, "--data-dir", data, "--no-reserve", "--json").stdout.splitlines()
    first, second = sorted(map(json.loads, lines), key=lambda line: line["path"])
    assert sorted((first.pop("id"), second["id"])) == [1, 2]
    assert first == {
        "path": f"{BULK}/456-event-789.jpg",
        "known": False,
        "source": "900x600 jpeg",
        "stand_ins": [],
    }
    assert {one["size"] for one in second["stand_ins"]} == {
        "300x300 jpeg",
        "480x320 jpeg",
        "500x333 jpeg",
        "1200x800 jpeg",
    }


def test_a_dry_run_prints_the_groups_and_changes_nothing(
    data: Path, tree: Path, invoke: Invoke
) -> None:
    done = invoke("adopt", tree, "--data-dir", data, "--dry-run")
    first, second = sorted(done.stdout.splitlines())
    assert first == f"new\t{BULK}/456-event-789.jpg"
    assert second.split("\t")[:3] == [
        "new",
        f"{BULK}/sunset-123.jpg",
        f"{LIBRARY}/sunset-123-detail.jpg",
    ]
    assert not list(data.glob("originals/*"))
    lines = invoke("adopt", tree, "--data-dir", data, "--dry-run", "--json").stdout.splitlines()
    assert [json.loads(line)["ids"] for line in lines] == [[], []]


def test_skipped_files_are_named_and_the_exit_code_is_1(
    data: Path, tree: Path, invoke: Invoke
) -> None:
    odd = f"{BULK}/odd[/b] [1].txt"
    (tree / odd).parent.mkdir(parents=True, exist_ok=True)
    (tree / odd).write_text("not an image")
    done = invoke("adopt", tree, "--data-dir", data, "--no-reserve")
    assert done.code == 1
    assert f"skipped {odd}: is not an image" in done.stderr
    lines = invoke("adopt", tree, "--data-dir", data, "--no-reserve", "--json").stdout.splitlines()
    assert [line["path"] for line in map(json.loads, lines) if "error" in line] == [odd]


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_that_cannot_be_adopted_is_a_fault(
    data: Path, folder: str, invoke: Invoke
) -> None:
    (data / "originals").mkdir(parents=True)
    done = invoke("adopt", data / folder, "--data-dir", data)
    assert done.code == 2
    assert str(data / folder) in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_is_completed_by_the_next(
    data: Path, tmp_path: Path, how: signal.Signals
) -> None:
    tree = tmp_path / "many"
    for number in range(12):
        picture = photo(600 + number)
        save(picture, tree / BULK / f"{number:02}.jpg")
        save(picture.resize((240, 160)), tree / LIBRARY / f"{number:02}_w240.jpg")
    command = [*SMARTSERVE, "adopt", str(tree), "--data-dir", str(data)]
    for lines in (1, 4):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            process.send_signal(how)
            process.stdout.read()
    done = run("adopt", tree, "--data-dir", data)
    assert done.returncode == 0
    lines_ = [line.split("\t") for line in done.stdout.splitlines()]
    assert sorted(int(media_id) for media_id, *_ in lines_) == list(range(1, 13))
    assert all(summary.count("240x160") == 1 for *_, summary in lines_)
    originals = [path for path in (data / "originals").rglob("*") if path.is_file()]
    # A kill leaves hidden files of copies in progress; the server deletes them at its start.
    assert len([path for path in originals if not path.name.startswith(".")]) == 24
    with running("--data-dir", data):
        wait_until(
            lambda: not any(path.name.startswith(".") for path in (data / "originals").rglob("*"))
        )
