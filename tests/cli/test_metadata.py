"""``smartserve metadata``: files are named by what is embedded, and never replaced or lost."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter
from tests.cli.conftest import Invoke
from tests.metadata.embedding.conftest import make

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
    assert "a.metadata.json: without generation_id, generation_timestamp" in embedded
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
