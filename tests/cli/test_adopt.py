"""``smartserve adopt``, as a process of its own, also one that is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import SMARTSERVE, fetch, run, running
from tests.library.adoption.trees import BULK, LIBRARY, photo, premade, save


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A storage tree of another system: one picture with its sizes, and one without."""
    root = tmp_path / "old"
    save(photo(), root / BULK / "sunset-123.jpg")
    premade(photo(), root / LIBRARY / "sunset-123", ("jpg",))
    save(photo(900, name="kodak-05.jpg"), root / BULK / "456-event-789.jpg")
    return root


def test_a_tree_is_adopted_and_served_though_an_original_is_lost(data: Path, tree: Path) -> None:
    done = run("adopt", tree, "--data-dir", data, "--user-id", "5")
    assert (done.returncode, done.stderr.strip()) == (0, "")
    first, second = sorted(done.stdout.splitlines())
    assert first.split("\t") == ["1", f"{BULK}/456-event-789.jpg", "900x600 jpeg"]
    assert second.split("\t") == [
        "2",
        f"{BULK}/sunset-123.jpg",
        "1536x1024 jpeg; fallbacks: 1200x800 jpeg, 300x300 jpeg, 480x320 jpeg, 500x333 jpeg",
    ]
    (lost,) = data.glob("originals/bulk/*/sunset*")
    lost.unlink()
    with running("--data-dir", data) as (_, base):
        assert fetch(f"{base}/serve/1")[0] == "image/jpeg"
        media_type, _, status = fetch(f"{base}/serve/2?size=grid", "image/webp")
        assert (media_type, status) == ("image/webp", "smartserve; hit; detail=fallback")


def test_a_second_run_says_that_all_is_known_as_json_too(data: Path, tree: Path) -> None:
    run("adopt", tree, "--data-dir", data)
    told = run("adopt", tree, "--data-dir", data).stdout.splitlines()
    assert [line.endswith("(known)") for line in told] == [True, True]
    told = run("adopt", tree, "--data-dir", data, "--json").stdout.splitlines()
    first, second = sorted(map(json.loads, told), key=lambda line: line["path"])
    assert first == {
        "id": 1,
        "path": f"{BULK}/456-event-789.jpg",
        "known": True,
        "source": "900x600 jpeg",
        "stand_ins": [],
    }
    assert {one["size"] for one in second["stand_ins"]} == {
        "300x300 jpeg",
        "480x320 jpeg",
        "500x333 jpeg",
        "1200x800 jpeg",
    }


def test_a_dry_run_only_tells(data: Path, tree: Path) -> None:
    done = run("adopt", tree, "--data-dir", data, "--dry-run")
    first, second = sorted(done.stdout.splitlines())
    assert first == f"new\t{BULK}/456-event-789.jpg"
    assert second.split("\t")[:3] == [
        "new",
        f"{BULK}/sunset-123.jpg",
        f"{LIBRARY}/sunset-123-detail.jpg",
    ]
    assert not list(data.glob("originals/*"))
    assert "(known)" not in run("adopt", tree, "--data-dir", data).stdout


def test_what_is_skipped_is_named_and_the_exit_code_tells(data: Path, tree: Path) -> None:
    odd = f"{BULK}/odd[/b] [1].txt"
    (tree / odd).parent.mkdir()
    (tree / odd).write_text("no picture")
    done = run("adopt", tree, "--data-dir", data)
    assert done.returncode == 1
    assert f"skipped {odd}: is not an image" in done.stderr
    told = run("adopt", tree, "--data-dir", data, "--json").stdout.splitlines()
    assert [line["path"] for line in map(json.loads, told) if "error" in line] == [odd]


@pytest.mark.parametrize(
    ("folder", "told"), [("nowhere", "is no folder"), (".", "holds storage.root")]
)
def test_a_folder_that_cannot_be_adopted_is_told(data: Path, folder: str, told: str) -> None:
    (data / "originals").mkdir(parents=True)
    done = run("adopt", data / folder, "--data-dir", data)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_is_completed_by_the_next(
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
    # What a kill leaves of a copy under way is hidden, and swept by a server that starts.
    assert len([path for path in originals if not path.name.startswith(".")]) == 24
    with running("--data-dir", data):
        deadline = time.monotonic() + 20
        while any(path.name.startswith(".") for path in (data / "originals").rglob("*")):
            assert time.monotonic() < deadline, "not swept"
            time.sleep(0.1)
