"""Faces: the share of their area that crops keep, false detections, and the time of a detection."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image, ImageOps

from proxy.domain.media import Face, MediaFacts
from proxy.domain.variant import Geometry, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import FaceJob, ProbeJob
from proxy.rendering import face_model
from proxy.rendering.worker.imaging.probe import probe
from proxy.serving.source_facts import to_facts
from proxy.settings import Settings
from tests.benchmarks.originals import kodak, large
from tests.benchmarks.report import Row, Table
from tests.support.faces import PEOPLE_FREE, images, models
from tests.support.faces import portraits as people
from tests.support.memory_files import memory_file
from tests.support.server import SAMPLES

TARGETS: Mapping[str, float] = {"header": 0.78, "thumbnail": 0.97}
"""Mean share of the area of detected faces that a crop keeps."""
LIMIT_MS = 50.0
VARIANTS = 7
"""Number of variants of each portrait."""
GROUP = 3
"""Number of portraits on one image."""
_TURNS = 5
_LIMITS = Settings().limits.to_limits()
_SIZES = Settings().size_specs()
_ORIENTATION = 0x0112

Find = Callable[[bytes], Sequence[Face]]


def measure() -> Table:
    """Measure what crops keep with and without faces, then false detections and the time."""
    find = finder()
    rows = []
    for size, target in TARGETS.items():
        facts = [described(one, find) for one in portraits()]
        kept = [share_kept(_SIZES[size], one) for one in facts]
        without = [share_kept(_SIZES[size], one, by_faces=False) for one in facts]
        remark = f"{len(facts)} portraits; {min(kept):.2f} at least"
        rows += [
            Row(f"{size}, kept", [fmean(kept)], yardstick=[1.0], target=target, remark=remark),
            Row(f"{size}, kept by the point of interest", [fmean(without)], yardstick=[1.0]),
        ]
    close = [find(content) for content in close_ups(find)]
    missed, remark = sum(not found for found in close), f"of {len(close)}"
    rows.append(Row("close-ups without a face", [missed], [1.0], limit=0, remark=remark))
    people_free = list(without_people())
    false = sum(bool(find(content)) for content in people_free)
    remark = f"of {len(people_free)}"
    rows.append(Row("images without people with a face", [false], [1.0], limit=0, remark=remark))
    for name, paths in (("768 x 512", kodak()), ("6 megapixels", large())):
        contents = [path.read_bytes() for path in paths]
        times = [_milliseconds(find, contents) for _ in range(_TURNS)]
        rows.append(Row(f"detection, ms of CPU, {name}", times, [LIMIT_MS], limit=1.0))
    return Table(f"faces, {_TURNS} turns for times", rows, ["Times include the decoding."])


def finder() -> Find:
    """Return what detects the faces of a file, in this process."""
    path = models() / face_model.FILE_NAME
    # Without the extra there is nothing to import.
    from proxy.rendering.worker.imaging.face_detection import FaceModel, detect  # noqa: PLC0415

    model = FaceModel(path)

    def find(content: bytes) -> Sequence[Face]:
        with memory_file(content) as descriptor:
            return detect(FaceJob(_LIMITS), descriptor, model).faces

    return find


def portraits() -> Iterator[bytes]:
    """Yield portraits as they are, mirrored, turned by EXIF, reduced, reframed, and a group."""
    loaded = [_loaded(path) for path in people()]
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    for image in loaded:
        yield _saved(image)
        yield _saved(ImageOps.mirror(image))
        yield _saved(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
        yield _saved(image.resize((image.width // 3, image.height // 3)))
        yield _saved(image.resize((image.width * 3, image.height * 3)))
        # Beside the middle of a landscape, and in the lower half of a tall image.
        yield _saved(_on_canvas((3 * image.height, image.height), [(image, 0.9, 0.0)]))
        yield _saved(_on_canvas((image.width, 3 * image.width), [(image, 0.0, 0.8)]))
    small = [ImageOps.contain(image, (300, 300)) for image in loaded[:GROUP]]
    yield _saved(
        _on_canvas((1200, 500), [(one, 0.1 + 0.35 * at, 0.6) for at, one in enumerate(small)])
    )


def close_ups(find: Find) -> Iterator[bytes]:
    """Yield what the boxes of the faces contain, and the same without the chin."""
    for path in people():
        image = _loaded(path)
        for face in find(_saved(image)):
            left, top = round(face.left * image.width), round(face.top * image.height)
            right = round((face.left + face.width) * image.width)
            for share in (1.0, 0.75):
                bottom = round((face.top + share * face.height) * image.height)
                yield _saved(image.crop((left, top, right, bottom)))


def without_people() -> Iterator[bytes]:
    """Yield photographs, textures, drawings and scans that show nobody, also turned and cropped."""
    folder = images()
    for name in PEOPLE_FREE:
        yield next(folder.glob(f"{name}.[pj]*g")).read_bytes()
    for name in ("kodak-03.jpg", "kodak-05.jpg", "kodak-23.jpg", "logo.png", "badge.png"):
        image = _loaded(SAMPLES / name)
        yield _saved(image)
        yield _saved(ImageOps.mirror(image))
        yield _saved(image.rotate(180))
        quarter = (image.width // 4, image.height // 4, image.width // 4 * 3, image.height // 4 * 3)
        yield _saved(image.crop(quarter))


def described(content: bytes, find: Find) -> MediaFacts:
    """Return the facts of a file with its faces."""
    with memory_file(content) as descriptor:
        facts = to_facts(probe(ProbeJob(_LIMITS), descriptor), "it")
    return replace(facts, faces=tuple(find(content)))


def share_kept(size: SizeSpec, facts: MediaFacts, *, by_faces: bool = True) -> float:
    """Return the share of the area of all faces that the crop of a size keeps; 0 without faces."""
    geometry = plan_geometry(size, facts if by_faces else replace(facts, faces=None))
    faces = facts.faces or ()
    area = sum(face.width * face.height for face in faces)
    return sum(_kept(face, geometry) for face in faces) / area if area else 0.0


def _kept(face: Face, geometry: Geometry) -> float:
    """Return the area of a face within a crop, as a share of the image."""
    left, top = geometry.left / geometry.scaled_width, geometry.top / geometry.scaled_height
    right = left + geometry.width / geometry.scaled_width
    bottom = top + geometry.height / geometry.scaled_height
    across = min(right, face.left + face.width) - max(left, face.left)
    return max(0.0, across) * max(0.0, min(bottom, face.top + face.height) - max(top, face.top))


def _milliseconds(find: Find, contents: Sequence[bytes]) -> float:
    began = time.process_time()
    for content in contents:
        find(content)
    return (time.process_time() - began) / len(contents) * 1000


def _loaded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _saved(image: Image.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=92, **options)
    return target.getvalue()


def _on_canvas(
    size: tuple[int, int], pasted: Sequence[tuple[Image.Image, float, float]]
) -> Image.Image:
    """Return images on a canvas, each at its share of the free width and height."""
    canvas = Image.new("RGB", size, (96, 104, 112))
    for image, across, down in pasted:
        place = (size[0] - image.width) * across, (size[1] - image.height) * down
        canvas.paste(image, (round(place[0]), round(place[1])))
    return canvas
