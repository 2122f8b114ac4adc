"""Faces found on portraits, on changed portraits, and on images without people."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from proxy.domain.media import Face
from proxy.domain.worker_protocol import FaceJob
from proxy.rendering import face_model
from tests.rendering.worker.imaging import studio
from tests.support.faces import ADMIRAL, GIRL, PEOPLE_FREE, images, models
from tests.support.memory_files import memory_file
from tests.support.server import SAMPLES

PORTRAITS = (GIRL, ADMIRAL)
_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def find() -> Callable[[studio.Source], Sequence[Face]]:
    """Detects the faces of a source, in this process."""
    path = models() / face_model.FILE_NAME
    # Without the extra there is nothing to import.
    from proxy.rendering.worker.imaging.face_detection import FaceModel, detect  # noqa: PLC0415

    model = FaceModel(path)

    def faces(source: studio.Source) -> Sequence[Face]:
        with memory_file(source) as opened:
            return detect(FaceJob(studio.LIMITS), opened, model).faces

    return faces


Find = Callable[[studio.Source], Sequence[Face]]


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def overlap(one: Face, other: Face) -> float:
    """Return the intersection over union."""
    across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    common = max(0.0, across) * max(0.0, down)
    return common / (one.width * one.height + other.width * other.height - common)


@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_a_portrait_has_one_face_and_its_box_contains_the_eyes(path: Path, find: Find) -> None:
    (face,) = find(path)
    # Seen by eye: between the eyes.
    x, y = {"kodak-15": (0.66, 0.24), "grace_hopper": (0.50, 0.33)}[path.stem]
    assert face.left < x < face.left + face.width
    assert face.top < y < face.top + face.height / 2
    assert face.score > 0.6


@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_a_face_is_found_in_any_size_and_type_at_the_same_place(path: Path, find: Find) -> None:
    image = opened(path)
    (expected,) = find(path)
    clear = image.convert("RGBA")
    clear.putalpha(
        ImageOps.invert(Image.linear_gradient("L").resize(image.size)).point(
            lambda a: 255 if a > 60 else 0
        )
    )
    sources = {
        "small": saved(image.resize((image.width // 4, image.height // 4))),
        "large": saved(image.resize((image.width * 3, image.height * 3))),
        "grey": saved(image.convert("L"), "PNG"),
        "16 bits": saved(Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257), "PNG"),
        "cmyk": saved(image.convert("CMYK")),
        "webp": saved(image, "WEBP"),
        "avif": saved(image, "AVIF", speed=10),
        "palette": saved(image.quantize(128), "GIF"),
        "transparent": saved(clear, "PNG"),
        "animated": saved(
            image, "WEBP", save_all=True, append_images=[Image.new("RGB", image.size)], duration=90
        ),
    }
    for name, source in sources.items():
        faces = find(source)
        assert len(faces) == 1, name
        assert overlap(faces[0], expected) > 0.6, name


@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_boxes_are_those_of_the_upright_image(path: Path, find: Find) -> None:
    (expected,) = find(path)
    exif = Image.Exif()
    for orientation, turned in (
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
    ):
        exif[_ORIENTATION] = orientation
        (face,) = find(saved(opened(path).transpose(turned), quality=92, exif=exif))
        assert overlap(face, expected) > 0.8, orientation


@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_a_mirrored_portrait_has_a_mirrored_face(path: Path, find: Find) -> None:
    (face,), (expected,) = find(saved(ImageOps.mirror(opened(path)))), find(path)
    mirrored = Face(1 - face.left - face.width, face.top, face.width, face.height, face.score)
    assert overlap(mirrored, expected) > 0.7


@pytest.mark.parametrize("lower", [1.0, 0.75], ids=["whole", "without the chin"])
@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_a_face_that_fills_the_image_is_found(path: Path, lower: float, find: Find) -> None:
    image = opened(path)
    (face,) = find(path)
    width, height = face.width * image.width, face.height * image.height
    left, top = face.left * image.width, face.top * image.height
    close = image.crop((round(left), round(top), round(left + width), round(top + lower * height)))
    (found,) = find(saved(close, quality=92))
    assert found.width * found.height > 0.7


def group(width: int, places: Sequence[tuple[Path, int, int]], *, height: int) -> Image.Image:
    """Return portraits of a height on a canvas of 500 pixels, each pasted at its place."""
    canvas = Image.new("RGB", (width, 500), (90, 100, 110))
    for path, left, top in places:
        image = opened(path)
        canvas.paste(image.resize((image.width * height // image.height, height)), (left, top))
    return canvas


def test_each_face_of_a_group_is_found_once(find: Find) -> None:
    places = [(GIRL, 0, 20), (ADMIRAL, 430, 100), (ADMIRAL, 780, 40)]
    assert len(find(saved(group(1100, places, height=280)))) == 3


def test_small_faces_on_a_long_image_are_found(find: Find) -> None:
    wide = group(2500, [(ADMIRAL, 100, 150), (ADMIRAL, 2200, 100)], height=240)
    # On the whole image, 192 pixels wide for the model, a face has 6 pixels.
    assert len(find(saved(wide))) == 2
    assert len(find(saved(wide.rotate(90, expand=True).rotate(0)))) == 0, "people lying down"


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (3, 3), (40, 2000), (2000, 40), (64, 64)])
def test_an_image_without_room_for_a_face_has_none(size: tuple[int, int], find: Find) -> None:
    assert find(saved(Image.effect_noise(size, 90), "PNG")) == ()


def test_a_truncated_portrait_is_searched_as_far_as_it_can_be_decoded(find: Find) -> None:
    content = ADMIRAL.read_bytes()
    assert len(find(content[: len(content) * 3 // 4])) == 1


def test_no_face_is_found_on_images_without_people(find: Find) -> None:
    folder = images()
    found = {
        path.name: faces
        for path in (next(folder.glob(f"{name}.[pj]*g")) for name in PEOPLE_FREE)
        if (faces := find(path))
    }
    assert found == {}


def test_no_face_is_found_on_samples_and_drawn_textures(find: Find) -> None:
    noise = Image.effect_noise((640, 480), 60)
    drawn = {
        "noise": noise,
        "coarse noise": noise.resize((40, 30)).resize((640, 480)),
        "gradient": Image.linear_gradient("L").resize((640, 480)),
        "radial": Image.radial_gradient("L").resize((480, 480)),
        "fractal": Image.effect_mandelbrot((600, 400), (-2, -1, 1, 1), 100),
        "flat": Image.new("RGB", (500, 500), "white"),
        "turned": opened(SAMPLES / "kodak-05.jpg").rotate(180),
        "mirrored": ImageOps.mirror(opened(SAMPLES / "kodak-23.jpg")),
        "tall": opened(SAMPLES / "kodak-03.jpg").rotate(90, expand=True),
        "part": opened(SAMPLES / "kodak-05.jpg").crop((300, 100, 700, 400)),
        "upscaled": opened(SAMPLES / "kodak-23.jpg").resize((2400, 1600)),
    }
    sources: dict[str, studio.Source] = {
        **{name: saved(image.convert("RGB")) for name, image in drawn.items()},
        **{
            name: SAMPLES / name
            for name in ("kodak-03.jpg", "kodak-05.jpg", "kodak-23.jpg", "logo.png", "badge.png")
        },
    }
    assert {name: faces for name, source in sources.items() if (faces := find(source))} == {}


def test_a_drawing_has_no_faces_also_if_it_has_text(find: Find) -> None:
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><text y="20">Logo</text></svg>'
    assert find(drawing) == ()
