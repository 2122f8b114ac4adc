"""``smartserve metadata``: files are named by what is embedded, and never replaced or lost."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from proxy.cli.metadata import _safe_cell, _store_metadata
from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter
from proxy.metadata.moderation import moderate
from tests.cli.conftest import Completed, Invoke
from tests.metadata.embedding.conftest import make
from tests.support.commands import SMARTSERVE, run

STEM = "20250111_143022_a3f2e9d4"
IMAGE = Image.effect_noise((24, 16), 64)


def save(folder: Path, name: str, *, sidecar: bool = False, **values: Any) -> Path:
    return ImageMetadataWriter().save_with_metadata(
        IMAGE, make(**values), folder, name, save_sidecar_json=sidecar
    )


def plain(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.save(path)
    return path


def extracted(path: Path) -> ImageMetadataEmbedding | None:
    return ImageMetadataWriter().extract_metadata(path)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_embed_writes_copies_with_the_metadata_of_the_sidecars(
    suffix: str, pictures: Path, tmp_path: Path, invoke: Invoke
) -> None:
    paths = [plain(pictures / f"{number}.{suffix}") for number in (1, 2)]
    for number in (1, 2):
        (pictures / f"{number}.metadata.json").write_text(make(seed=number).to_json())
    before = [path.read_bytes() for path in paths]
    done = invoke("metadata", "embed", *paths, "--output", tmp_path / "new" / "out")
    written = [tmp_path / "new" / "out" / path.name for path in paths]
    assert (done.code, done.stdout.splitlines()) == (0, [str(path) for path in written])
    assert done.stderr.splitlines()[-1] == "embed: 2 written, 0 skipped"
    assert [extracted(path) for path in written] == [make(seed=1), make(seed=2)]
    assert [path.read_bytes() for path in paths] == before
    for path, copy in zip(paths, written, strict=True):
        with Image.open(path) as old, Image.open(copy) as new:
            assert new.tobytes() == old.tobytes()


def test_embed_takes_one_file_for_all_images_and_writes_sidecars(
    pictures: Path, tmp_path: Path, invoke: Invoke
) -> None:
    (tmp_path / "run.json").write_text(make(seed=7).to_json())
    path = save(pictures, "a.png", seed=1)
    options = ("--metadata", tmp_path / "run.json", "--sidecar", "-o", tmp_path / "out")
    assert invoke("metadata", "embed", path, *options).code == 0
    assert extracted(tmp_path / "out" / "a.png") == make(seed=7), "that of an earlier run"
    assert tree(tmp_path / "out") == ["a.metadata.json", "a.png"]
    again = invoke("metadata", "embed", path, *options)
    assert again.code == 1
    assert "a.metadata.json exists already" in again.stderr


def test_name_prints_names_and_changes_nothing(pictures: Path, invoke: Invoke) -> None:
    paths = [save(pictures, "a.PNG"), save(pictures, "b.jpg"), pictures / "c.json"]
    paths[2].write_text(make().to_json())
    done = invoke("metadata", "name", *paths, "--naming", "descriptive", "--prefix", "test")
    name = "test_20250111_143022_beautiful-sunset_a3f2e9d4"
    expected = [f"{paths[0]}\t{name}.png", f"{paths[1]}\t{name}.jpg", f"{paths[2]}\t{name}.png"]
    assert (done.code, done.stdout.splitlines()) == (0, expected)
    assert done.stderr.splitlines()[-1] == "name: 3 named, 0 skipped"
    assert tree(pictures) == ["a.PNG", "b.jpg", "c.json"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], f"{STEM}.png"),
        (["--naming", "guid"], "a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e.png"),
        (["--naming", "descriptive"], "20250111_143022_beautiful-sunset_a3f2e9d4.png"),
        (["--by-date"], f"2025/01/11/images/{STEM}.png"),
        (["--by-date", "--naming", "guid"],
         "2025/01/11/images/a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e.png"),
    ],
)  # fmt: skip
def test_rename_moves_images_and_their_sidecars(
    options: list[str], name: str, pictures: Path, invoke: Invoke
) -> None:
    save(pictures, "old.png", sidecar=True)
    (pictures / "notes.txt").write_text("stays")
    planned = invoke("metadata", "rename", pictures, *options, "--dry-run")
    assert planned.stderr.splitlines()[-1] == "rename: 1 planned, 0 unchanged, 0 skipped"
    assert tree(pictures) == ["notes.txt", "old.metadata.json", "old.png"]
    done = invoke("metadata", "rename", pictures, *options)
    assert done.stdout == planned.stdout == f"{pictures / 'old.png'}\t{pictures / name}\n"
    assert done.stderr.splitlines()[-1] == "rename: 1 renamed, 0 unchanged, 0 skipped"
    sidecar = name.replace(".png", ".metadata.json")
    assert tree(pictures) == sorted(["notes.txt", name, sidecar])
    assert extracted(pictures / name) == make()


def test_rename_numbers_equal_names_and_may_be_repeated(pictures: Path, invoke: Invoke) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        save(pictures, name, seed=ord(name[0]))
    (pictures / f"{STEM}-2.png").write_bytes(b"other")
    planned = invoke("metadata", "rename", pictures, "--dry-run")
    done = invoke("metadata", "rename", pictures)
    assert done.code == planned.code == 1, "the other file is no image"
    assert done.stdout == planned.stdout
    assert done.stderr.splitlines()[-1] == "rename: 3 renamed, 0 unchanged, 1 skipped"
    names = [f"{STEM}-2.png", f"{STEM}-3.png", f"{STEM}.jpg", f"{STEM}.png"]
    assert tree(pictures) == names
    assert [getattr(extracted(pictures / one), "seed", None) for one in names] == [
        None, ord("b"), ord("c"), ord("a"),
    ]  # fmt: skip
    again = invoke("metadata", "rename", pictures)
    assert again.stdout == ""
    assert again.stderr.splitlines()[-1] == "rename: 0 renamed, 3 unchanged, 1 skipped"
    assert tree(pictures) == names


def test_a_sidecar_that_is_in_the_way_is_not_replaced(pictures: Path, invoke: Invoke) -> None:
    save(pictures, "a.png", sidecar=True)
    (pictures / f"{STEM}.metadata.json").write_text("other")
    assert invoke("metadata", "rename", pictures).code == 0
    assert tree(pictures) == [f"{STEM}-2.metadata.json", f"{STEM}-2.png", f"{STEM}.metadata.json"]
    assert (pictures / f"{STEM}.metadata.json").read_text() == "other"


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_interrupted_rename_loses_nothing_and_is_continued(
    calls: int, pictures: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the link of the image, before the first and before the second removal."""
    save(pictures, "a.png", sidecar=True)
    counted = 0

    def killed(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal counted
            # The shared servers of other tests call these functions too, in their own threads.
            if str(pictures) in str(arguments[0]):
                counted += 1
                if counted > calls:
                    raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed(os.link))
        patch.setattr(Path, "unlink", killed(Path.unlink))
        invoke("metadata", "rename", pictures)
    assert counted > calls
    assert [path for path in pictures.glob("*.png") if extracted(path) == make()]
    assert invoke("metadata", "rename", pictures).code == 0
    assert tree(pictures) == [f"{STEM}.metadata.json", f"{STEM}.png"]


def test_rename_leaves_links_hidden_files_and_folders_alone(
    pictures: Path, tmp_path: Path, invoke: Invoke
) -> None:
    outside = save(tmp_path, "outside.png")
    (pictures / "link.png").symlink_to(outside)
    save(pictures / "below", "a.png")
    save(pictures, ".hidden.png")
    before = tree(pictures)
    done = invoke("metadata", "rename", pictures)
    assert (done.code, done.stdout) == (1, "")
    assert f"skipped {pictures / 'link.png'}: is a symbolic link" in done.stderr
    assert tree(pictures) == before
    assert outside.exists()


def test_rename_keeps_the_names_of_hard_links_and_may_be_repeated(
    pictures: Path, invoke: Invoke
) -> None:
    (pictures / "b.png").hardlink_to(save(pictures, "a.png"))
    planned = invoke("metadata", "rename", pictures, "--dry-run")
    done = invoke("metadata", "rename", pictures)
    assert done.stdout == planned.stdout
    assert done.stderr.splitlines()[-1] == "rename: 2 renamed, 0 unchanged, 0 skipped"
    for _ in range(2):
        assert tree(pictures) == [f"{STEM}-2.png", f"{STEM}.png"]
        again = invoke("metadata", "rename", pictures)
        assert again.stderr.splitlines()[-1] == "rename: 0 renamed, 2 unchanged, 0 skipped"


HOSTILE = {
    "cfg_scale": "9" * 401,
    "seed": "9" * 5000,
    "steps": "NaN",
    "width": "[" * 100_000,
    "prompt": '"' + "a " * 400_000 + '"',
    "generation_timestamp": '"' + "9" * 100_000 + '"',
    "base_model_id": '"' + "#" * 400_000 + '"',
}


@pytest.mark.parametrize("field", HOSTILE)
def test_a_hostile_image_is_skipped_and_the_rest_is_done(
    field: str, pictures: Path, tmp_path: Path, invoke: Invoke
) -> None:
    text = make(seed=1).to_json().replace("}", f', "{field}": {HOSTILE[field]}}}')
    info = PngImagePlugin.PngInfo()
    info.add_text("ml_lib_metadata", text)
    IMAGE.save(pictures / "a.png", pnginfo=info)
    save(pictures, "b.png", seed=2)
    paths = (pictures / "a.png", pictures / "b.png")
    (tmp_path / "run.json").write_text(make().to_json())
    began = time.process_time()
    output = ("--metadata", tmp_path / "run.json", "--output", tmp_path / "out")
    assert invoke("metadata", "embed", *paths, *output).code == 0
    named = invoke("metadata", "name", *paths, "--naming", "descriptive")
    renamed = invoke("metadata", "rename", pictures, "--naming", "descriptive")
    assert time.process_time() - began < 10
    good = field in {"prompt", "base_model_id"}
    for done in (named, renamed):
        assert done.code == int(not good)
        assert len(done.stdout.splitlines()) == 1 + good
        assert len(done.stderr) < 1000


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space")])
@pytest.mark.parametrize("command", ["embed", "name", "rename"])
def test_an_error_of_the_output_ends_the_command_and_is_none_of_a_file(
    command: str, error: OSError, pictures: Path, tmp_path: Path, invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    paths = [save(pictures, f"{number}.png", seed=number) for number in range(3)]
    (tmp_path / "run.json").write_text(make().to_json())
    arguments: dict[str, list[str | Path]] = {
        "embed": [*paths, "--metadata", tmp_path / "run.json", "--output", tmp_path / "out"],
        "name": [*paths],
        "rename": [pictures],
    }

    def failing(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr("proxy.cli.base.print", failing, raising=False)
    stdout = sys.stdout
    done = invoke("metadata", command, *arguments[command])
    sys.stdout = stdout
    assert done.code == 1
    # No summary either: it would count files that are not printed.
    expected = [] if isinstance(error, BrokenPipeError) else ["error: standard output: No space"]
    assert [line for line in done.stderr.splitlines() if line] == expected
    written = {"embed": tmp_path / "out" / "0.png", "rename": pictures / f"{STEM}.png"}
    if path := written.get(command):
        assert path.exists(), "the file whose line is missing is done"


@pytest.mark.parametrize("failing", [{1}, {3}, {5}, {1, 2, 3, 4, 5}], ids=str)
@pytest.mark.parametrize("command", ["embed", "name", "rename"])
def test_an_error_of_one_file_is_named_and_the_rest_is_done(
    command: str, failing: Collection[int], pictures: Path, tmp_path: Path, invoke: Invoke
) -> None:
    paths = [pictures / f"{number}.png" for number in range(1, 6)]
    for number, path in enumerate(paths, 1):
        if number in failing:
            path.write_text("not an image")
        else:
            save(pictures, path.name, seed=number)
    (tmp_path / "run.json").write_text(make().to_json())
    arguments: dict[str, list[str | Path]] = {
        "embed": [*paths, "--metadata", tmp_path / "run.json", "--output", tmp_path / "out"],
        "name": [*paths],
        "rename": [pictures],
    }
    done = invoke("metadata", command, *arguments[command])
    assert done.code == 1
    assert len(done.stdout.splitlines()) == 5 - len(failing)
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
    assert [line.partition(": ")[0] for line in skipped] == [
        f"skipped {paths[number - 1]}" for number in sorted(failing)
    ]
    assert done.stderr.splitlines()[-1].endswith(f"{len(failing)} skipped")


def test_reasons_name_the_cause(pictures: Path, tmp_path: Path, invoke: Invoke) -> None:
    (pictures / "a.metadata.json").write_text('{"prompt": "a cat"}')
    (pictures / "a\x1b[31m.gif").touch()
    paths = [plain(pictures / "a.png"), plain(pictures / "b.png"), pictures / "c.png"]
    embedded = invoke("metadata", "embed", *paths, "-o", tmp_path / "out").stderr
    assert "a.metadata.json: missing fields: generation_id, generation_timestamp" in embedded
    assert f"no metadata in {pictures / 'b.metadata.json'}: No such file" in embedded
    named = invoke("metadata", "name", *paths, pictures / "a\x1b[31m.gif", pictures).stderr
    assert "a.png: has no metadata of the generation. Use `smartserve metadata embed`" in named
    assert "c.png: No such file" in named
    assert "a\\x1b[31m.gif: its name does not end with one of .png" in named
    assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_exist_is_a_usage_error(tmp_path: Path, invoke: Invoke) -> None:
    done = invoke("metadata", "rename", tmp_path / "missing")
    assert done.code == 2
    assert "missing: No such file or directory" in " ".join(done.stderr.split())


PARAMETERS = (
    "=cat, violence\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5"
)


def generated(path: Path) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", PARAMETERS)
    path.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.save(path, "PNG", pnginfo=info)
    return path


def objects(done: Completed) -> dict[str, Any]:
    """Return the JSON objects of a command by the name of the file."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(one["path"]).name: one for one in found}


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """Environment of a command that extracts, with a folder of its own."""
    return {
        "SMARTSERVE_METADATA__TEMP_ROOT": str(tmp_path / "temp"),
        "SMARTSERVE_METADATA__ENGINES": "1",
    }


@pytest.mark.slow
def test_extract_prints_all_values_as_text_json_or_csv(
    pictures: Path, invoke: Invoke, engine: dict[str, str]
) -> None:
    paths = [save(pictures, "a.png"), generated(pictures / "b.png"), pictures / "missing.png"]
    (pictures / "text.png").write_text("not an image")
    paths.append(pictures / "text.png")
    text = invoke("metadata", "extract", *paths, **engine)
    assert text.code == 1
    assert text.stderr.splitlines()[-1] == "extract: 2 done, 2 skipped", text.stderr
    assert "  ai_generation.source: ml_lib" in text.stdout.splitlines()
    assert "missing.png: No such file" in text.stderr
    assert "text.png: Enhanced format support" in text.stderr

    found = objects(invoke("metadata", "extract", *paths[:2], "--json", **engine))
    assert found["a.png"]["metadata"]["ai_generation"]["seed"] == "42"
    assert found["b.png"]["metadata"]["ai_generation"]["sampler"] == "Euler a"
    assert found["b.png"]["quality_metrics"]["enhanced_extraction"] is True

    table = invoke("metadata", "extract", *paths[:2], "--csv", **engine).stdout
    rows = {Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(table))}
    assert rows["a.png"]["width"] == "24"
    assert rows["b.png"]["ai_generation.prompt"] == "'=cat, violence", "not a formula"


@pytest.mark.slow
def test_moderate_prints_flags(pictures: Path, invoke: Invoke, engine: dict[str, str]) -> None:
    paths = [generated(pictures / "b.png"), plain(pictures / "c.png")]
    found = objects(invoke("metadata", "moderate", *paths, **engine))
    assert found["b.png"]["requiresReview"] is True
    flags = {flag["type"] for flag in found["b.png"]["flags"]}
    assert flags == {"ai_generated", "concerning_prompt"}
    assert found["c.png"]["flags"] == []


@pytest.mark.slow
def test_an_unforeseen_error_with_one_file_does_not_end_the_run(
    pictures: Path, invoke: Invoke, engine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_generated(metadata: Any, terms: Any) -> Any:
        if metadata["ai_generation"]["prompt"]:
            raise AttributeError("no attribute")
        return moderate(metadata, terms)

    paths = [generated(pictures / "b.png"), plain(pictures / "c.png")]
    monkeypatch.setattr("proxy.cli.metadata.moderate", fail_for_generated)
    done = invoke("metadata", "moderate", *paths, **engine)
    assert (done.code, list(objects(done))) == (1, ["c.png"])
    assert f"skipped {paths[0]}: internal error: AttributeError" in done.stderr
    assert "moderate: 1 done, 1 skipped" in done.stderr


@pytest.mark.slow
def test_classify_copies_images_to_folders_of_their_generators(
    pictures: Path, tmp_path: Path, invoke: Invoke, engine: dict[str, str]
) -> None:
    save(pictures, "a.PNG")
    generated(pictures / "b.png")
    plain(pictures / "b.jpg")
    plain(pictures / "c.webp")
    (pictures / "bad.png").write_text("not an image")
    (pictures / "notes.txt").write_text("not classified")
    (pictures / "link.png").symlink_to(pictures / "b.png")
    generated(pictures / "below" / "d.png")
    before, out = tree(pictures), tmp_path / "out"
    done = invoke("metadata", "classify", pictures, out, **engine)
    assert done.code == 1
    assert tree(pictures) == before, "copied, not moved"
    assert done.stderr.splitlines()[-1] == "classify: 4 copied, 2 skipped"
    assert "link.png: is a symbolic link" in done.stderr
    assert "bad.png: Enhanced format support" in done.stderr
    copies = [
        "classification_report.json",
        "ml_lib/a.PNG", "ml_lib/a_metadata.json",
        "stable_diffusion/b.png", "stable_diffusion/b.png_metadata.json",
        "unknown/b.jpg", "unknown/b_metadata.json",
        "unknown/c.webp", "unknown/c_metadata.json",
    ]  # fmt: skip
    assert tree(out) == copies
    assert (out / "unknown/c.webp").read_bytes() == (pictures / "c.webp").read_bytes()
    metadata = json.loads((out / "stable_diffusion/b.png_metadata.json").read_text())
    assert metadata["ai_generation"]["negativePrompt"] == "dogs"
    assert json.loads((out / "classification_report.json").read_text()) == {
        "totalProcessed": 4,
        "breakdown": {"ml_lib": 1, "stable_diffusion": 1, "unknown": 2},
        "files": {
            "ml_lib": ["a.PNG"],
            "stable_diffusion": ["b.png"],
            "unknown": ["b.jpg", "c.webp"],
        },
    }
    # A file of the same name but other content is not replaced; the others are known.
    (out / "unknown" / "c.webp").write_bytes(b"other")
    again = invoke("metadata", "classify", pictures, out, **engine)
    assert again.stderr.splitlines()[-1] == "classify: 3 copied, 3 skipped"
    assert "c.webp exists already" in again.stderr
    assert (out / "unknown" / "c.webp").read_bytes() == b"other"


@pytest.mark.slow
def test_classify_keeps_the_metadata_of_each_image_in_several_runs(
    tmp_path: Path, invoke: Invoke, engine: dict[str, str]
) -> None:
    out = tmp_path / "out"
    runs = [("photo.jpg",), ("photo.png",), ("photo.png.jpg", "photo.png.webp", "photo.webp")]
    sources = [tmp_path / str(number) for number in range(len(runs))]
    for source, files in zip(sources, runs, strict=True):
        for name in files:
            source.mkdir(exist_ok=True)
            Image.effect_noise((24, 16), 64).save(source / name)
    for source in (*sources, *sources):
        assert invoke("metadata", "classify", source, out, **engine).code == 0
    images = [path for path in (out / "unknown").iterdir() if path.suffix != ".json"]
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in images}
    written = sorted((out / "unknown").glob("*_metadata.json"))
    assert len(images) == len(written) == 5
    assert {json.loads(path.read_text())["sha256"] for path in written} == hashes
    assert {"photo_metadata.json", "photo.png_metadata.json"} <= {one.name for one in written}


def test_metadata_is_stored_under_a_name_that_is_free_or_of_the_same_image(tmp_path: Path) -> None:
    def names() -> list[str]:
        return sorted(path.name.removesuffix("_metadata.json") for path in tmp_path.iterdir())

    def stored(name: str) -> Any:
        return json.loads((tmp_path / f"{name}_metadata.json").read_text())

    for text in ("not JSON", "[]", '{"sha256": null}', "[" * 100_000):
        (tmp_path / "a_metadata.json").write_text(text)
        (tmp_path / "a.png_metadata.json").unlink(missing_ok=True)
        _store_metadata(tmp_path, ["a", "a.png"], {"sha256": "1"})
        assert names() == ["a", "a.png"]
        assert (tmp_path / "a_metadata.json").read_text() == text
    _store_metadata(tmp_path, ["a.png"], {"sha256": "2"})
    _store_metadata(tmp_path, ["a.png"], {"sha256": "2", "new": True})
    _store_metadata(tmp_path, ["a", "a.png"], {"sha256": "1", "new": True})
    assert names() == ["a", "a.png", "a.png-2"]
    assert stored("a.png") == {"sha256": "1", "new": True}
    assert stored("a.png-2") == {"sha256": "2", "new": True}


@pytest.mark.slow
def test_names_that_are_not_utf_8_are_printed_and_reported(
    pictures: Path, tmp_path: Path, engine: dict[str, str]
) -> None:
    name = os.fsdecode(b"a\xff.png")
    save(pictures, name, prompt="日本")
    strict = {**engine, "PYTHONIOENCODING": "utf-8:strict", "PYTHONUTF8": "0"}
    table = run("metadata", "extract", pictures / name, "--csv", **strict)
    assert table.returncode == 0, table.stderr
    (row,) = csv.DictReader(io.StringIO(table.stdout))
    assert row["file"] == f"{pictures}/a\\udcff.png"
    assert row["ai_generation.prompt"] == "日本"
    for command, paths in (
        ("name", [pictures / name]),
        ("extract", [pictures / name]),
        ("classify", [pictures, tmp_path / "out"]),
    ):
        done = run("metadata", command, *paths, **strict)
        assert done.returncode == 0, done.stderr
        assert "a\\udcff.png" in done.stdout
    report = json.loads((tmp_path / "out" / "classification_report.json").read_bytes())
    assert report["files"] == {"ml_lib": [name]}


@pytest.mark.slow
def test_output_that_nobody_reads_ends_an_extraction(
    pictures: Path, engine: dict[str, str]
) -> None:
    paths = [save(pictures, f"{number}.png") for number in range(3)]
    reader, writer = os.pipe()
    os.close(reader)
    for options in ([], ["--json"], ["--csv"]):
        done = subprocess.run(
            [*SMARTSERVE, "metadata", "extract", *paths, *options],
            stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env={**os.environ, **engine, "SMARTSERVE_LOG__LEVEL": "error"},
        )  # fmt: skip
        assert (done.returncode, done.stderr.strip()) == (1, "")
    os.close(writer)


@pytest.mark.parametrize("below", ["", "out", "a/b"])
def test_classify_refuses_a_folder_below_the_images(
    below: str, pictures: Path, invoke: Invoke
) -> None:
    done = invoke("metadata", "classify", pictures, pictures / below)
    assert done.code == 2
    assert "Choose another folder" in " ".join(done.stderr.split())
    assert tree(pictures) == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", " =1", "\t=1", "\uff1d1"])
def test_a_cell_of_csv_is_no_formula(text: str) -> None:
    assert _safe_cell(text) == f"'{text}"
    assert _safe_cell("a=1") == "a=1"
    assert _safe_cell(-1.5) == -1.5, "a number is no formula"


@pytest.mark.slow
def test_extract_withholds_what_a_tier_may_not_see(
    pictures: Path, invoke: Invoke, engine: dict[str, str]
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    Image.new("RGB", (8, 8)).save(pictures / "a.png", pnginfo=info)
    found = {}
    for tier in ("free", "starter"):
        done = invoke("metadata", "extract", pictures / "a.png", "--json", "--tier", tier, **engine)
        found[tier] = objects(done)["a.png"]["metadata"]
    assert found["starter"]["groups"]["XMP-dc"] == {"Source": "elsewhere"}
    assert found["starter"]["withheld"] is None
    assert "XMP-dc" not in found["free"]["groups"]
    assert found["free"]["withheld"]["needs"] == "professional"


_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    ' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="elsewhere"/></rdf:RDF></x:xmpmeta>'
)


def test_json_and_csv_exclude_each_other(pictures: Path, invoke: Invoke) -> None:
    done = invoke("metadata", "extract", pictures, "--json", "--csv")
    assert done.code == 2
    assert "exclude each other" in " ".join(done.stderr.split())
