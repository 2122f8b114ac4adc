"""Writes generated images with their metadata, and reads that metadata again."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from proxy.domain.errors import MetadataError
from proxy.metadata.container.walk import walk
from proxy.metadata.embedding.containers import exif_of, with_metadata
from proxy.metadata.embedding.fields import UNKNOWN, ImageMetadataEmbedding
from proxy.metadata.embedding.naming import (
    SUFFIXES,
    ImageNamingConfig,
    filename_of,
    parse_timestamp,
)
from proxy.runtime.safe_open import sync_directory
from proxy.runtime.tempfiles import TempFile, write_all

if TYPE_CHECKING:
    from PIL import Image

FULL_JSON = "ml_lib_metadata"
"""The keyword of the PNG chunk with all fields."""
KEYWORDS = {
    one: one for one in ImageMetadataEmbedding.__dataclass_fields__ if one != "base_model_id"
} | {"base_model_id": "base_model"}
"""The keyword of each field's own PNG chunk."""
_MAX_JPEG_EXIF = 60_000
"""A segment of JPEG has at most 65,533 bytes."""
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
_IMAGE_DESCRIPTION, _SOFTWARE, _DATE_TIME, _OFFSET_TIME = 0x010E, 0x0131, 0x0132, 0x9010
FILE_MODE = 0o666
"""Less the umask, as for files of other programs."""


class ImageMetadataWriter:
    """Names, writes and reads images with metadata. May be used by several threads."""

    def __init__(self, naming_config: ImageNamingConfig | None = None) -> None:
        self.naming_config = naming_config or ImageNamingConfig.standard()

    def generate_filename(
        self, metadata: ImageMetadataEmbedding, custom_prefix: str | None = None
    ) -> str:
        """Return the file name of an image by the naming configuration.

        Raises:
            ValueError: the timestamp cannot be parsed, or the prefix cannot be part of a name.
        """
        return filename_of(metadata, self.naming_config, custom_prefix)

    def save_with_metadata(
        self,
        image: Image.Image,
        metadata: ImageMetadataEmbedding,
        output_dir: Path | str,
        filename: str | None = None,
        embed_full_json: bool = True,  # noqa: FBT001, FBT002
        embed_exif: bool = True,  # noqa: FBT001, FBT002
        save_sidecar_json: bool = False,  # noqa: FBT001, FBT002
    ) -> Path:
        """Write an image with its metadata, and return its path.

        The file appears complete or not at all, and never replaces another. Missing folders are
        created. Only PNG has text chunks (``embed_full_json``); JPEG and WebP have EXIF data. What
        ``image.info`` contains is not written, except for the colour profile.

        Raises:
            FileExistsError: the image or its sidecar exists; generated names get a suffix instead.
            ValueError: ``filename`` has a folder or a suffix other than PNG, JPEG or WebP; a name
                needs the timestamp and it cannot be parsed; or the format cannot store the image.
        """
        name = self.generate_filename(metadata) if filename is None else filename
        kind = format_of(name)
        content = embed(
            _encode(image, kind),
            metadata,
            full_json=embed_full_json,
            exif=embed_exif,
        )
        directory = Path(output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        sidecar = sidecar_json(metadata) if save_sidecar_json else None
        return publish(directory, name, content, sidecar, generated=filename is None)

    def extract_metadata(self, image_path: Path | str) -> ImageMetadataEmbedding | None:
        """Return the metadata that this class or ml_lib embedded, or None if there is none.

        Damaged or foreign metadata, and a file that is no image, is no metadata.

        Raises:
            OSError: the file cannot be read.
        """
        with open_regular(Path(image_path)) as file:
            return read_metadata(file)


def read_metadata(file: BinaryIO) -> ImageMetadataEmbedding | None:
    """As `ImageMetadataWriter.extract_metadata`, for a seekable file."""
    try:
        found = walk(file)
    # Not an image, or one that exceeds the limits of the walk.
    except MetadataError:
        return None
    chunks = [one.text for one in found.texts if one.keyword == FULL_JSON]
    comments = [one.text for one in found.exif if one.keyword == "UserComment"]
    for text in (*chunks, *comments):
        with suppress(ValueError):
            return ImageMetadataEmbedding.from_json(text)
    return None


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it does not exist, is not a regular file, or cannot be read.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file


def format_of(name: str) -> str:
    """Return the name that Pillow has for the format of a file name.

    Raises:
        ValueError: it has folders, or no suffix of an image in which metadata can be embedded.
    """
    if Path(name).name != name or "\0" in name:
        raise ValueError(f"{name!r} is not a bare file name. Give the folder as output_dir.")
    kind = SUFFIXES.get(Path(name).suffix.lower())
    if kind is None:
        raise ValueError(f"{name!r} must end with one of {', '.join(SUFFIXES)}")
    return kind


def _encode(image: Image.Image, kind: str) -> bytes:
    # A copy: the caller's image keeps its info, of which Pillow would write comment and XMP.
    clean = image.copy()
    clean.info = {key: image.info[key] for key in ("transparency",) if key in image.info}
    buffer = io.BytesIO()
    try:
        clean.save(buffer, kind, icc_profile=image.info.get("icc_profile"), **_OPTIONS[kind])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{kind} cannot store this image of mode {image.mode} ({error}). "
            'Convert it first, for example with image.convert("RGB").'
        ) from error
    return buffer.getvalue()


def embed(
    content: bytes,
    metadata: ImageMetadataEmbedding,
    *,
    full_json: bool = True,
    exif: bool = True,
    replace: bool = False,
) -> bytes:
    """Return an image file with metadata; its pixels are not encoded again.

    Models are named without folders. ``replace`` replaces metadata of this program.

    Raises:
        ValueError: the file is damaged or no PNG, JPEG or WebP, or would lose other EXIF data.
    """
    safe = metadata.without_folders()
    is_jpeg = content.startswith(b"\xff\xd8")
    return with_metadata(
        content,
        _texts(safe) if full_json else {},
        _exif(safe, limit=_MAX_JPEG_EXIF if is_jpeg else None) if exif else b"",
        ours={FULL_JSON, *KEYWORDS.values()} if replace else (),
    )


def _texts(metadata: ImageMetadataEmbedding) -> dict[str, str]:
    """Return the text of each PNG chunk by its keyword; unknown values have none."""
    known = {
        KEYWORDS[name]: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in metadata.to_dict().items()
        if value not in (None, UNKNOWN, [])
    }
    return {FULL_JSON: metadata.to_json(), **known}


def _exif(metadata: ImageMetadataEmbedding, *, limit: int | None) -> bytes:
    """Return EXIF data; what exceeds the limit of JPEG is omitted with a warning."""
    made_by = (metadata.pipeline_type, metadata.pipeline_version)
    software = " ".join(one for one in made_by if one != UNKNOWN)
    text = {_IMAGE_DESCRIPTION: metadata.prompt, _SOFTWARE: software}
    offset = {}
    # An unknown time is omitted: a name may do without it.
    with suppress(ValueError):
        text[_DATE_TIME] = parse_timestamp(metadata).strftime("%Y:%m:%d %H:%M:%S")
        offset[_OFFSET_TIME] = b"+00:00"
    # As UTF-8, which readers expect although EXIF allows ASCII only.
    ifd0 = {
        tag: value.replace("\0", "").encode("utf-8", "replace")
        for tag, value in text.items()
        if value
    }
    comment = b"UNICODE\0" + metadata.to_json().encode("utf-16-le", "replace")
    result = exif_of(ifd0, offset, comment)
    if limit is None or len(result) <= limit:
        return result
    advice = "Save a PNG, or a sidecar file as well."
    warnings.warn(f"too long for JPEG: not all fields are embedded. {advice}", stacklevel=4)
    result = exif_of(ifd0, offset)
    if len(result) > limit:
        del ifd0[_IMAGE_DESCRIPTION]
    return exif_of(ifd0, offset)


def sidecar_path(image: Path) -> Path:
    """Return the path of an image's sidecar file."""
    return image.with_name(f"{image.stem}.metadata.json")


def sidecar_json(metadata: ImageMetadataEmbedding) -> bytes:
    """Return the content of a sidecar file."""
    return metadata.without_folders().to_json(indent=2).encode("utf-8", "replace") + b"\n"


def publish(
    directory: Path, name: str, content: bytes, sidecar: bytes | None, *, generated: bool
) -> Path:
    """Write an image, and its sidecar unless that is None, durably; return the image's path.

    Raises:
        FileExistsError: one of them exists; a generated name gets the first suffix that is free.
    """
    for path in candidates(directory / name):
        files = {} if sidecar is None else {sidecar_path(path): sidecar}
        try:
            _publish({**files, path: content})
        except FileExistsError:
            if not generated:
                raise
        else:
            return path
    raise AssertionError  # candidates are infinite


def candidates(path: Path) -> Iterator[Path]:
    """Yield the path, then paths with the suffixes -2, -3 and so on."""
    yield path
    for number in itertools.count(2):
        yield path.with_stem(f"{path.stem}-{number}")


def _publish(files: Mapping[Path, bytes]) -> None:
    """Write new files of one directory: each appears complete, the last one after the others."""
    for path in files:
        # Saves writing them; `link` decides.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    linked: list[Path] = []
    with ExitStack() as stack:
        written = []
        for path, content in files.items():
            file = stack.enter_context(TempFile(str(path.parent), mode=FILE_MODE))
            write_all(file.descriptor, content)
            os.fsync(file.descriptor)
            written.append((path, file))
        try:
            for path, file in written:
                file.link(str(path))
                linked.append(path)
        except OSError:
            for path in linked:
                path.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def sync_folder(directory: Path) -> None:
    """Synchronise the names in a folder with the disk."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_directory(descriptor)
    finally:
        os.close(descriptor)
