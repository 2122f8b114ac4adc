"""``smartserve import``, ``warm`` and ``analyse``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from proxy.domain.embedding import Embedding
from proxy.storage.database.embeddings import row_of
from tests.cli.conftest import Invoke
from tests.support.commands import SMARTSERVE, fetch, running
from tests.support.server import SAMPLES, Library
from tests.support.waiting import wait_until

QUICK = {"SMARTSERVE_WORKERS__COUNT": "1", "SMARTSERVE_ENCODERS__TARGET": "0"}
"""One worker, and no search for the quality of a final."""


def test_import_adds_a_folder_and_names_the_files_that_it_skips(
    data: Path, folder: Path, invoke: Invoke
) -> None:
    done = invoke(
        *("import", folder, "--data-dir", data, "--user-id", "5", "--type", "logo", "--json")
    )
    lines = {Path(line["path"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.code == 1
    images = {"logo.png", "Schöne Grüße [1].png", "same.png"}
    assert set(lines) == images | {"notes.txt", "icon.svg", "cut.png"}
    assert {name for name, line in lines.items() if "error" in line} == set(lines) - images
    assert lines["logo.png"]["id"] == lines["same.png"]["id"]
    assert {lines["logo.png"]["known"], lines["same.png"]["known"]} == {False, True}
    assert lines["logo.png"]["url"].endswith(f"/serve/{lines['logo.png']['id']}")
    originals = [path for path in (data / "originals").rglob("*") if path.is_file()]
    assert len(originals) == 2, "no part of a skipped file stays"


def test_import_prints_id_url_and_path(data: Path, invoke: Invoke) -> None:
    done = invoke("import", SAMPLES / "logo.png", "--data-dir", data)
    assert done.code == 0
    assert re.match(r"1\thttp://127.0.0.1:8080/serve/1\t.*logo.png\n", done.stdout)
    again = invoke("import", SAMPLES / "logo.png", "--data-dir", data)
    assert (again.code, "(known)" in again.stdout) == (0, True)


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """Run a web server with the files of a folder."""
    with ThreadingHTTPServer(("127.0.0.2", 0), partial(_Files, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_import_takes_addresses_and_a_list_of_them(
    data: Path, tmp_path: Path, invoke: Invoke
) -> None:
    with served(SAMPLES) as server:
        base = f"http://127.0.0.2:{server.server_port}"
        listed = tmp_path / "list.txt"
        listed.write_text(f"# images\n\n  {base}/kodak-23.jpg\nhttp://evil.example.org/a.jpg\n")
        done = invoke(
            *("import", f"{base}/logo.png", SAMPLES / "logo.png", "--urls", listed),
            *("--data-dir", data, "--json"),
            SMARTSERVE_HTTP__HOSTS="127.0.0.2",
            SMARTSERVE_HTTP__PORTS=str(server.server_port),
            SMARTSERVE_HTTP__ALLOW_PRIVATE="127.0.0.2/32",
        )
    lines = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.code == 1, done.stderr
    assert lines.keys() == {
        *(f"{base}/logo.png", f"{base}/kodak-23.jpg", str(SAMPLES / "logo.png")),
        "http://evil.example.org/a.jpg",
    }
    assert lines[f"{base}/logo.png"]["id"] == lines[str(SAMPLES / "logo.png")]["id"]
    assert "not in http.hosts" in lines["http://evil.example.org/a.jpg"]["error"]


@pytest.mark.parametrize("arguments", [(), ("--urls", "/nothing/list.txt")])
def test_import_without_a_file_or_address_says_what_it_takes(
    data: Path, invoke: Invoke, arguments: tuple[str, ...]
) -> None:
    done = invoke("import", *arguments, "--data-dir", data)
    assert done.code == 2
    assert "--urls" in done.stderr


def odd_folder(root: Path) -> Path:
    """A sound image before and after each kind of entry that is no image."""
    folder = root / "odd"
    folder.mkdir()
    for name in ("a-first.png", "z-last.png"):
        shutil.copy(SAMPLES / "logo.png", folder / name)
    os.mkfifo(folder / "b-fifo")
    (folder / "c-dangling").symlink_to(folder / "nothing")
    (folder / "d-link").symlink_to(root)
    (folder / "e-\x1b[31m\u202e[bold]name.png").write_bytes(b"no image")
    shutil.copy(SAMPLES / "logo.png", folder / os.fsdecode(b"f-\xff.png"))
    (folder / "g-large.png").write_bytes(bytes(200_000))
    return folder


def test_import_names_skips_and_counts_whatever_is_no_image(
    data: Path, tmp_path: Path, invoke: Invoke
) -> None:
    limit = {"SMARTSERVE_STORAGE__MAX_ORIGINAL_BYTES": "150000"}
    done = invoke("import", odd_folder(tmp_path), "--data-dir", data, **limit)
    assert done.code == 1, done.stderr
    assert len(done.stdout.splitlines()) == 3
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
    names = [line.split("/odd/")[1].split(": ")[0] for line in sorted(skipped)]
    odd = r"e-\x1b[31m\u202e[bold]name.png"
    assert names == ["b-fifo", "c-dangling", "d-link", odd, "g-large.png"]
    # Not decoded: what a FIFO or a device sends may never end.
    assert "b-fifo: is not a regular file" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"import: 1 imported, 2 known, 5 skipped, in [0-9.]+ s \([0-9.]+/s\)", last)


def test_import_names_a_folder_that_cannot_be_listed(
    data: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    (folder / "closed").mkdir(parents=True)
    shutil.copy(SAMPLES / "logo.png", folder / "open.png")
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("proxy.library.import_files.os.scandir", refusing)
    done = invoke("import", folder, "--data-dir", data)
    assert done.code == 1
    assert "closed: " in done.stderr
    assert "import: 1 imported, 0 known, 1 skipped" in done.stderr


def test_import_names_a_missing_path(data: Path, tmp_path: Path, invoke: Invoke) -> None:
    done = invoke("import", tmp_path / "nothing [1]", "--data-dir", data)
    assert done.code == 1
    assert "nothing [1]: No such file" in done.stderr


@pytest.mark.slow
def test_warm_renders_every_size_and_format_once(data: Path, invoke: Invoke) -> None:
    invoke("import", SAMPLES / "logo.png", "--data-dir", data)
    first = invoke("warm", "--data-dir", data, **QUICK)
    assert (first.code, first.stdout) == (0, "1\t25 rendered, 0 present\n")
    assert invoke("warm", "1", "--data-dir", data, **QUICK).stdout == (
        "1\t0 rendered, 25 present\n"
    )
    with running("--data-dir", data, **QUICK) as (_, base):
        for accept in ("image/webp", "image/avif,image/webp,*/*;q=0.8", "image/webp,*/*", "*/*"):
            for size in ("thumbnail", "grid", "zoom"):
                status = fetch(f"{base}/serve/1?size={size}", accept)[2]
                assert status.startswith("smartserve; hit"), (accept, size)
                assert not status.endswith("draft")


def test_warm_names_an_image_that_it_cannot_render(data: Path, invoke: Invoke) -> None:
    done = invoke("warm", "77", "--data-dir", data, **QUICK)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("failed 77: ")


def test_analyse_prints_one_json_object_for_each_image(data_dir: Path, invoke: Invoke) -> None:
    done = invoke("analyse", "2", "3", "--data-dir", data_dir)
    assert done.code == 0, done.stderr
    found = {one["id"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert set(found) == {2, 3}
    for one in found.values():
        assert 0 < one["quality_score"] <= 100
        assert one["dominant_colors"]
        assert one["style"] is None
        assert "none is configured" in one["reasons"]["style"]


@pytest.mark.slow
def test_analyse_processes_all_images_by_default(
    data_dir: Path, library: Library, invoke: Invoke
) -> None:
    done = invoke("analyse", "--data-dir", data_dir)
    ids = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert (done.code, ids) == (0, set(library.ids.values()))


@pytest.mark.slow
def test_copies_are_found_among_stored_analyses(data: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    with Image.open(SAMPLES / "logo.png") as logo:
        logo.save(folder / "1.png")
        small = logo.convert("RGB").resize((300, 233))
        small.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "2.jpg", quality=70)
    shutil.copy(SAMPLES / "badge.png", folder / "3.png")
    imported = invoke("import", folder, "--data-dir", data, "--json")
    assert imported.code == 0, imported.stderr
    # Several files are stored at once, so their ids are in any order.
    ids = {
        Path(one["path"]).name: one["id"] for one in map(json.loads, imported.stdout.splitlines())
    }
    empty = invoke("near-duplicates", ids["1.png"], "--data-dir", data)
    assert empty.code == 0, empty.stderr
    assert json.loads(empty.stdout)["skipped"] == 2
    for _ in range(2):
        stored = invoke("analyse", "--store", "--data-dir", data)
        assert (stored.code, len(stored.stdout.splitlines())) == (0, 3), stored.stderr
    found = json.loads(invoke("near-duplicates", ids["1.png"], "--data-dir", data).stdout)
    assert [one["id"] for one in found["near_duplicates"]] == [ids["2.jpg"]], found
    assert found["near_duplicates"][0]["distance"] <= 0.18
    assert (found["compared"], found["skipped"]) == (2, 0)
    unknown = invoke("near-duplicates", "77", "--data-dir", data)
    assert (unknown.code, unknown.stdout) == (1, "")


def test_analyse_names_an_unknown_image(data: Path, invoke: Invoke) -> None:
    done = invoke("analyse", "77", "--data-dir", data)
    assert done.code == 1
    assert "failed 77: there is no image with this id" in done.stderr


def test_similar_prints_ids_and_similarities(data_dir: Path, invoke: Invoke) -> None:
    done = invoke("similar", "1", "--data-dir", data_dir)
    assert (done.code, done.stdout) == (1, "")
    assert "no embedding" in done.stderr
    rows = [(1, [1.0] * 16), (2, [1.0] * 15 + [0.0]), (3, [1.0, -1.0] * 8)]
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        for media_id, values in rows:
            row = asyncio.run(row_of(media_id, Embedding.of("clip", values)))
            names = ", ".join(row)
            database.execute(
                f"INSERT INTO media_embeddings ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [*row.values()],
            )
    done = invoke("similar", "1", "--data-dir", data_dir)
    assert (done.code, done.stdout) == (0, "2\t0.9682\n3\t0.0000\n"), done.stderr


@pytest.mark.slow
def test_an_output_that_is_closed_ends_the_command_without_a_traceback(
    data: Path, folder: Path
) -> None:
    command = [*SMARTSERVE, "import", str(folder), "--data-dir", str(data), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        output = process.stderr.read()
        process.wait(30)
    assert b"Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("created", ["smartserve.db", "originals/bulk", "originals/bulk/*/*"])
def test_ctrl_c_ends_an_import_without_a_traceback(data: Path, folder: Path, created: str) -> None:
    command = [*SMARTSERVE, "import", str(folder), "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        wait_until(lambda: any(data.glob(created)))
        process.send_signal(signal.SIGINT)
        output = process.stderr.read()
        code = process.wait(30)
    assert b"Traceback" not in output
    # 1 if it had finished: the folder has a file that is not an image.
    assert code in (130, 1)
