"""Commands that store the metadata of images and search it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.cli.conftest import Completed, Invoke

TEXTS: Mapping[str, Mapping[str, str]] = {
    "fox.png": {"Description": "a fox --v 6.1 --style raw --q 2"},
    "crow.png": {"parameters": "a crow\nSteps: 20, Sampler: Euler a, Seed: 7, Model: RealVis"},
    "plain.png": {},
}


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """Environment of a command that extracts, with a folder of its own."""
    return {
        "SMARTSERVE_METADATA__TEMP_ROOT": str(tmp_path / "temp"),
        "SMARTSERVE_METADATA__ENGINES": "1",
        "SMARTSERVE_WORKERS__COUNT": "1",
        "SMARTSERVE_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.fixture
def ids(tmp_path: Path, invoke: Invoke, engine: dict[str, str]) -> dict[str, int]:
    """Images of a library by the names of their files, imported one after the other."""
    found: dict[str, int] = {}
    for number, (name, texts) in enumerate(TEXTS.items()):
        info = PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text)
        path = tmp_path / name
        Image.new("RGB", (64, 48), (number * 80, 9, 9)).save(path, pnginfo=info)
        done = invoke("import", path, "--json", **engine)
        assert done.code == 0, done.stderr
        found[name] = json.loads(done.stdout)["id"]
    return found


def extracted(done: Completed) -> dict[int, str]:
    """Return the printed ids with their sources."""
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return {int(media_id): source for media_id, source in lines}


def summary(done: Completed) -> str:
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_metadata_of_all_images_is_stored_once_and_found(
    ids: dict[str, int], invoke: Invoke, engine: dict[str, str], tmp_path: Path
) -> None:
    fox, crow, plain = ids.values()
    first = invoke("metadata", "extract", "--store", **engine)
    assert first.code == 0, first.stderr
    assert extracted(first) == {fox: "midjourney", crow: "stable_diffusion", plain: "unknown"}
    assert summary(first) == "extract: 3 stored, 0 current, 0 failed"

    # As after an interruption, and after an upgrade of the engine.
    with closing(sqlite3.connect(tmp_path / "data" / "smartserve.db")) as database, database:
        database.execute("DELETE FROM media_metadata WHERE media_id = ?", [crow])
        changed = "UPDATE media_metadata SET engine = 'exiftool 12.00' WHERE media_id = ?"
        database.execute(changed, [plain])
    again = invoke("metadata", "extract", "--store", **engine)
    assert extracted(again) == {crow: "stable_diffusion", plain: "unknown"}
    assert summary(again) == "extract: 2 stored, 1 current, 0 failed"
    named = invoke("metadata", "extract", "--store", str(fox), "--json", **engine)
    assert json.loads(named.stdout)["metadata"]["ai_generation"]["prompt"] == "a fox"

    everything = invoke("metadata", "search", **engine)
    assert everything.stdout.splitlines() == [
        f"{plain}\tunknown\tplain.png\t",
        f"{crow}\tstable_diffusion\tcrow.png\ta crow",
        f"{fox}\tmidjourney\tfox.png\ta fox",
    ]
    assert summary(everything) == "search: 3 found"
    found = {}
    for options in (
        ("--ai-generator", "midjourney"),
        ("--tag", "ai-midjourney", "--tag", "style:none"),
        ("--has-prompt", "--mj-version", "6.1", "--min-quality", "2"),
    ):
        done = invoke("metadata", "search", *options, "--json", **engine)
        found = json.loads(done.stdout)
        assert found["id"] == fox
    assert found["tags"] == ["generator:midjourney", "high-quality", "midjourney:v6.1", "style:raw"]
    assert (found["prompt"], found["mj_raw"]) == ("a fox", True)
    assert len(invoke("metadata", "search", "--limit", "2", **engine).stdout.splitlines()) == 2
    assert invoke("metadata", "search", "--user-id", "99", **engine).stdout == ""


@pytest.mark.slow
def test_an_image_that_cannot_be_read_costs_only_itself(
    ids: dict[str, int], invoke: Invoke, engine: dict[str, str], tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "data" / "smartserve.db")) as database:
        query = "SELECT bulk_path FROM media_files WHERE id = ?"
        [path] = database.execute(query, [ids["fox.png"]]).fetchone()
    (tmp_path / "data" / "originals" / path).unlink()
    done = invoke("metadata", "extract", "--store", **engine)
    assert (done.code, summary(done)) == (1, "extract: 2 stored, 0 current, 1 failed")
    assert f"failed {ids['fox.png']}: the original of this image is missing" in done.stderr
    unknown = invoke("metadata", "extract", "--store", "77", **engine)
    assert unknown.code == 1
    assert "failed 77: there is no image with this id" in unknown.stderr


@pytest.mark.slow
def test_an_unforeseen_error_with_one_image_does_not_end_the_run(
    ids: dict[str, int], invoke: Invoke, engine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_the_fox(generation: Mapping[str, Any]) -> tuple[str, ...]:
        if generation["source"] == "midjourney":
            raise AttributeError("no attribute")
        return ()

    monkeypatch.setattr("proxy.metadata.media_tags.tags_of", fail_for_the_fox)
    done = invoke("metadata", "extract", "--store", **engine)
    assert (done.code, summary(done)) == (1, "extract: 2 stored, 0 current, 1 failed")
    assert f"failed {ids['fox.png']}: internal error: AttributeError" in done.stderr


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "name files"),
        (["--store", "a.png"], "name media ids, not files"),
        (["--store", "0"], "name media ids, not files"),
        (["--store", "--csv"], "without --tier and --csv"),
        (["--store", "--tier", "free"], "without --tier and --csv"),
        (["a.png", "--tier", "gold"], "one of free, professional"),
    ],
)
def test_wrong_options_are_refused_with_advice(
    invoke: Invoke, options: list[str], advice: str
) -> None:
    done = invoke("metadata", "extract", *options)
    assert done.code == 2
    assert advice in " ".join(done.stderr.split())


def test_store_needs_the_extraction(invoke: Invoke, engine: dict[str, str]) -> None:
    off = {**engine, "SMARTSERVE_METADATA__ENABLED": "false"}
    done = invoke("metadata", "extract", "--store", **off)
    assert done.code == 2
    assert "metadata.enabled is false" in done.stderr


def test_a_search_of_an_empty_library_finds_nothing(invoke: Invoke, engine: dict[str, str]) -> None:
    done = invoke("metadata", "search", "--no-prompt", **engine)
    assert (done.code, done.stdout) == (0, ""), done.stderr
    assert summary(done) == "search: 0 found"
    many = [option for _ in range(21) for option in ("--tag", "a")]
    assert invoke("metadata", "search", *many, **engine).code == 2
