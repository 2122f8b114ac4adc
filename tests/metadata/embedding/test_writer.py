"""Saved images: what is embedded, what is not, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter, ImageNamingConfig
from proxy.metadata.embedding.writer import embed
from proxy.runtime.tempfiles import TempFile
from tests.metadata.embedding.conftest import make

IMAGE = Image.new("RGB", (24, 16), (255, 128, 0))
WRITER = ImageMetadataWriter()
ROOT = Path(__file__).resolve().parents[3]
FULL = make(
    prompt="Größe, 日本 and a cat",
    seed=18446744073709551615,
    scheduler="karras",
    clip_skip=2,
    base_model_id="sdxl-base-1.0",
    base_model_architecture="SDXL",
    vae_model="vae.safetensors",
    loras_used=({"name": "detail", "weight": 0.8},),
    generation_time_seconds=15.3,
    peak_vram_gb=8.2,
    pipeline_type="intelligent",
    pipeline_version="1.2.0",
)


def save(directory: Path, metadata: ImageMetadataEmbedding = FULL, **options: Any) -> Path:
    return WRITER.save_with_metadata(IMAGE, metadata, directory, **options)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        assert isinstance(image, PngImagePlugin.PngImageFile)
        return dict(image.text)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
@pytest.mark.parametrize("metadata", [FULL, make()], ids=["full", "short"])
def test_what_was_embedded_is_extracted(
    name: str, metadata: ImageMetadataEmbedding, tmp_path: Path
) -> None:
    path = save(tmp_path, metadata, filename=name)
    assert path == tmp_path / name
    assert WRITER.extract_metadata(path) == metadata
    assert WRITER.extract_metadata(str(path)) == metadata


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_prompt_is_extracted_as_it_was(name: str, prompt: str, tmp_path: Path) -> None:
    (tmp_path / name).unlink(missing_ok=True)
    metadata = make(prompt=prompt)
    assert WRITER.extract_metadata(save(tmp_path, metadata, filename=name)) == metadata


def test_a_png_has_a_chunk_for_all_fields_and_one_for_each_that_is_known(tmp_path: Path) -> None:
    text = text_of(save(tmp_path))
    assert json.loads(text.pop("ml_lib_metadata")) == FULL.to_dict()
    assert text == {
        "generation_id": "a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e",
        "generation_timestamp": "2025-01-11T14:30:22+00:00",
        "prompt": "Größe, 日本 and a cat",
        "negative_prompt": "low quality, blurry",
        "seed": "18446744073709551615",
        "steps": "30",
        "cfg_scale": "7.5",
        "width": "1024",
        "height": "768",
        "sampler": "DPM++ 2M",
        "scheduler": "karras",
        "clip_skip": "2",
        "base_model": "sdxl-base-1.0",
        "base_model_architecture": "SDXL",
        "vae_model": "vae.safetensors",
        "loras_used": '[{"name": "detail", "weight": 0.8}]',
        "generation_time_seconds": "15.3",
        "peak_vram_gb": "8.2",
        "pipeline_type": "intelligent",
        "pipeline_version": "1.2.0",
    }
    unknown = {"scheduler", "clip_skip", "base_model", "vae_model", "loras_used", "pipeline_type"}
    assert not unknown & set(text_of(save(tmp_path, make())))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_exif_data_has_prompt_pipeline_time_and_all_fields(name: str, tmp_path: Path) -> None:
    with Image.open(save(tmp_path, filename=name)) as image:
        exif = image.getexif()
    below = exif.get_ifd(0x8769)
    assert exif[0x010E].encode("latin-1").decode() == FULL.prompt
    assert (exif[0x0131], exif[0x0132]) == ("intelligent 1.2.0", "2025:01:11 14:30:22")
    assert below[0x9010] == "+00:00"
    assert below[0x9286][:8] == b"UNICODE\0"
    assert json.loads(below[0x9286][8:].decode("utf-16-le")) == FULL.to_dict()


def test_exiftool_reads_the_same_without_a_warning(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        path = save(tmp_path, filename=name)
        done = subprocess.run(
            ["exiftool", "-j", "-validate", "-warning", "-a", "-UserComment", "-ImageDescription",
             "-DateTime", "-ModifyDate", "-OffsetTime", path],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        found = json.loads(done.stdout)[0]
        assert json.loads(found["UserComment"]) == FULL.to_dict()
        assert found["ImageDescription"] == FULL.prompt
        assert found["ModifyDate"] == "2025:01:11 14:30:22"
        assert found["OffsetTime"] == "+00:00"


def test_what_is_not_known_is_not_in_the_exif_data(tmp_path: Path) -> None:
    metadata = make(generation_timestamp="some day")
    with Image.open(save(tmp_path, metadata, filename="a.jpg")) as image:
        exif = image.getexif()
    assert set(exif) == {0x010E, 0x8769}
    assert set(exif.get_ifd(0x8769)) == {0x9286}


def test_either_part_may_be_left_out(tmp_path: Path) -> None:
    without_json = save(tmp_path, embed_full_json=False)
    assert text_of(without_json) == {}
    assert WRITER.extract_metadata(without_json) == FULL
    without_exif = save(tmp_path, embed_exif=False)
    assert b"eXIf" not in without_exif.read_bytes()
    assert WRITER.extract_metadata(without_exif) == FULL
    without_both = save(tmp_path, embed_full_json=False, embed_exif=False)
    assert WRITER.extract_metadata(without_both) is None


def test_a_jpeg_omits_what_its_exif_segment_cannot_hold(tmp_path: Path) -> None:
    long, longer = make(prompt="cat " * 8_000), make(prompt="cat " * 16_000)
    with pytest.warns(UserWarning, match="too long for JPEG"):
        path = save(tmp_path, long, filename="a.jpg", save_sidecar_json=True)
    with Image.open(path) as image:
        assert image.getexif()[0x010E] == long.prompt
    assert WRITER.extract_metadata(path) is None
    assert (tmp_path / "a.metadata.json").exists()
    with (
        pytest.warns(UserWarning, match="too long for JPEG"),
        Image.open(save(tmp_path, longer, filename="b.jpg")) as image,
    ):
        assert 0x010E not in image.getexif()
    for name in ("a.png", "a.webp"):
        (tmp_path / "a.metadata.json").unlink(missing_ok=True)
        assert WRITER.extract_metadata(save(tmp_path, longer, filename=name)) == longer


def test_nothing_of_the_machine_or_of_the_image_given_is_written(tmp_path: Path) -> None:
    image = IMAGE.copy()
    exif = Image.Exif()
    exif[0x013B] = "alice"
    exif.get_ifd(0x8825)[1] = "N"
    image.info = {
        "exif": exif.tobytes(),
        "comment": b"alice",
        "xmp": b"alice",
        "Author": "alice",
        "icc_profile": b"profile of colours",
    }
    metadata = make(
        base_model_id="/home/alice/models/dream.safetensors",
        vae_model=r"C:\Users\alice\vae.pt",
        loras_used=({"name": "/home/alice/lora.pt", "weight": 1.0},),
    )
    for name in ("a.png", "b.jpg", "c.webp"):
        path = WRITER.save_with_metadata(
            image, metadata, tmp_path, filename=name, save_sidecar_json=True
        )
        for file in (path, path.with_name(f"{path.stem}.metadata.json")):
            content = file.read_bytes()
            for secret in ("alice", "/home", os.uname().nodename, str(tmp_path)):
                assert secret.encode() not in content
                assert secret.encode("utf-16-le") not in content
        with Image.open(path) as saved:
            assert 0x8825 not in saved.getexif()
            assert saved.info["icc_profile"] == b"profile of colours"
        extracted = WRITER.extract_metadata(path)
        assert extracted is not None
        assert extracted.base_model_id == "dream.safetensors"
    assert image.info["Author"] == "alice", "the caller's image is unchanged"


def test_a_sidecar_has_the_stem_of_its_image(tmp_path: Path) -> None:
    path = save(tmp_path, save_sidecar_json=True)
    beside = tmp_path / "20250111_143022_a3f2e9d4.metadata.json"
    assert names(tmp_path) == [beside.name, path.name]
    assert ImageMetadataEmbedding.from_json(beside.read_bytes()) == FULL


def test_missing_folders_are_created(tmp_path: Path) -> None:
    assert save(tmp_path / "a" / "b").exists()


def test_a_name_that_exists_is_refused_and_a_generated_one_gets_a_number(tmp_path: Path) -> None:
    save(tmp_path, filename="a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.png"):
        save(tmp_path, make(), filename="a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    stem = "20250111_143022_a3f2e9d4"
    assert [save(tmp_path).name for _ in range(3)] == [
        f"{stem}.png", f"{stem}-2.png", f"{stem}-3.png",
    ]  # fmt: skip


def test_a_sidecar_of_another_image_is_not_replaced(tmp_path: Path) -> None:
    save(tmp_path, filename="a.png", save_sidecar_json=True)
    with pytest.raises(FileExistsError, match=r"a\.metadata\.json"):
        save(tmp_path, make(), filename="a.jpg", save_sidecar_json=True)
    assert names(tmp_path) == ["a.metadata.json", "a.png"]
    (tmp_path / "20250111_143022_a3f2e9d4.metadata.json").write_text("other")
    assert save(tmp_path, save_sidecar_json=True).name == "20250111_143022_a3f2e9d4-2.png"


def test_an_image_that_appears_meanwhile_leaves_no_sidecar_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer comes between the check and the link."""
    link = TempFile.link

    def late(self: TempFile, path: str, *, dir_fd: int | None = None) -> None:
        if path.endswith(".json"):
            Path(path).with_name("a.png").write_bytes(b"other")
        link(self, path, dir_fd=dir_fd)

    monkeypatch.setattr(TempFile, "link", late)
    with pytest.raises(FileExistsError):
        save(tmp_path, filename="a.png", save_sidecar_json=True)
    assert names(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"other"


def test_a_dangling_link_is_a_name_that_exists(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(FileExistsError):
        save(tmp_path, filename="a.png")
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a.png", "/a.png", "b/a.png", "a", "a.gif", "a.png/", "a\0.png"]
)
def test_a_name_that_is_not_a_bare_name_of_an_image_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bare file name|must end with"):
        save(tmp_path / "out", filename=name)
    assert names(tmp_path) == []


def test_an_image_that_the_format_cannot_store_is_refused_with_advice(tmp_path: Path) -> None:
    for mode, name in (("RGBA", "a.jpg"), ("CMYK", "a.png"), ("F", "a.png")):
        with pytest.raises(ValueError, match=rf"mode {mode}.*convert"):
            WRITER.save_with_metadata(Image.new(mode, (2, 2)), make(), tmp_path, filename=name)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("size", "name"),
    [(size, f"a.{kind}") for size in ((0, 5), (5, 0), (0, 0)) for kind in ("png", "jpg", "webp")]
    + [((65_501, 1), "a.jpg"), ((1, 16_384), "a.webp")],
)
def test_a_size_that_the_format_cannot_store_is_refused_by_its_limit(
    size: tuple[int, int], name: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} pixels\. Each side must have 1 to"):
        WRITER.save_with_metadata(Image.new("RGB", size), make(), tmp_path, filename=name)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, save_sidecar_json=True)
    assert names(tmp_path) == []


def test_files_are_on_the_disk_before_they_have_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def log(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def logged(*arguments: Any, **options: Any) -> Any:
            events.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, logged)

    log(os, "fsync")
    log(TempFile, "link")
    save(tmp_path, save_sidecar_json=True)
    # Sidecar and image, then the folder.
    assert events == ["fsync", "fsync", "link", "link", "fsync"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{broken", "damaged"),
        ('{"prompt": "a cat"}', "of another program"),
        ("[]", "foreign"),
        ('{"generation_id": 5}', "of a wrong type"),
    ],
)
def test_damaged_or_foreign_json_is_no_metadata(text: str, reason: str, tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("ml_lib_metadata", text)
    IMAGE.save(tmp_path / "a.png", pnginfo=info)
    assert WRITER.extract_metadata(tmp_path / "a.png") is None, reason


def test_metadata_of_ml_lib_itself_is_extracted(tmp_path: Path) -> None:
    """It writes text of any language as escapes, more keys, and the comment into IFD0."""
    data = {**FULL.to_dict(), "loras_used": [{"name": "a", "weight": 0.5, "source": "civitai"}]}
    expected = ImageMetadataEmbedding.from_dict(data)
    info = PngImagePlugin.PngInfo()
    info.add_text("ml_lib_metadata", json.dumps(data, indent=2))
    IMAGE.save(tmp_path / "a.png", pnginfo=info)
    exif = Image.Exif()
    exif[0x9286] = json.dumps(data, indent=2)
    IMAGE.save(tmp_path / "b.jpg", exif=exif)
    assert WRITER.extract_metadata(tmp_path / "a.png") == expected
    assert WRITER.extract_metadata(tmp_path / "b.jpg") == expected


@pytest.mark.slow
def test_a_compressed_bomb_is_no_metadata(tmp_path: Path) -> None:
    """A chunk of 400 KB that inflates to 400 MB."""
    info = PngImagePlugin.PngInfo()
    body = zlib.compress(b" " * (400 << 20), 9)
    info.add(b"zTXt", b"ml_lib_metadata\0\0" + body)
    IMAGE.save(tmp_path / "a.png", pnginfo=info)
    script = textwrap.dedent("""
        import resource, sys
        from proxy.metadata.embedding import ImageMetadataWriter
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert ImageMetadataWriter().extract_metadata(sys.argv[1]) is None
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.png"],
        cwd=ROOT, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert int(done.stdout) < 32 << 10


def test_other_files_have_no_metadata_and_missing_ones_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty.png").touch()
    IMAGE.save(tmp_path / "plain.png")
    for name in ("notes.txt", "empty.png", "plain.png"):
        assert WRITER.extract_metadata(tmp_path / name) is None
    with pytest.raises(FileNotFoundError):
        WRITER.extract_metadata(tmp_path / "missing.png")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="regular file"):
        WRITER.extract_metadata(tmp_path / "fifo")


def test_metadata_is_embedded_in_a_file_without_changing_its_pixels(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        path = tmp_path / f"a.{kind.lower()}"
        Image.effect_noise((64, 48), 64).save(path, kind)
        with Image.open(path) as image:
            pixels = image.tobytes()
        path.write_bytes(embed(path.read_bytes(), FULL))
        assert WRITER.extract_metadata(path) == FULL
        path.write_bytes(embed(path.read_bytes(), make(seed=7)))
        assert WRITER.extract_metadata(path) == make(seed=7)
        with Image.open(path) as image:
            assert image.tobytes() == pixels


def test_threads_that_save_the_same_image_all_get_a_file(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def one(_number: int) -> Path:
        barrier.wait()
        return save(tmp_path, save_sidecar_json=True)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(one, range(8)))
    assert len(set(paths)) == 8
    assert len(names(tmp_path)) == 16


SCRIPT = """
import sys
from PIL import Image
from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter
metadata = ImageMetadataEmbedding.from_json(sys.argv[2])
writer, image = ImageMetadataWriter(), Image.new("RGB", (512, 512), (1, 2, 3))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    path = writer.save_with_metadata(image, metadata, sys.argv[1], save_sidecar_json=True)
    print(path.name, flush=True)
"""


def start(directory: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, directory, FULL.to_json(), str(count)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_processes_that_save_the_same_name_all_get_a_file(tmp_path: Path) -> None:
    processes = [start(tmp_path, 20) for _ in range(4)]
    for one in processes:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    saved = [
        name for one in processes for name in one.communicate("go\n", timeout=120)[0].splitlines()
    ]
    assert [one.returncode for one in processes] == [0] * 4
    assert len(set(saved)) == len(saved) == 80
    assert all(WRITER.extract_metadata(tmp_path / name) == FULL for name in saved)
    assert len(names(tmp_path)) == 160, "each with its sidecar, and nothing else"


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_only_whole_files(tmp_path: Path) -> None:
    for round_ in range(8):
        process = start(tmp_path, 1000)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        for _ in range(round_ + 1):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    for path in tmp_path.iterdir():
        if path.suffix == ".json":
            assert ImageMetadataEmbedding.from_json(path.read_bytes()) == FULL
        else:
            assert WRITER.extract_metadata(path) == FULL
            with Image.open(path) as image:
                image.load()
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_the_server_is_not_imported() -> None:
    script = (
        "import sys, proxy.metadata.embedding\n"
        "ours = {m for m in sys.modules if m.startswith('proxy.')}\n"
        "print(sorted({m.split('.')[1] for m in ours}))\n"
        "print(sorted({'aiohttp', 'sqlalchemy', 'pydantic', 'pyvips', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["['domain', 'metadata', 'runtime']", "[]"]


def test_a_generated_name_has_the_extension_of_the_configuration(tmp_path: Path) -> None:
    writer = ImageMetadataWriter(ImageNamingConfig(extension="webp"))
    path = writer.save_with_metadata(IMAGE, FULL, tmp_path)
    assert path.name == "20250111_143022_a3f2e9d4.webp"
    with Image.open(path) as image:
        assert image.format == "WEBP"
