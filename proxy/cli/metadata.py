"""``smartserve metadata``: metadata of files and images: read, write, store, search, name, sort."""

from __future__ import annotations

import asyncio
import csv
import errno
import filecmp
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from proxy.cli import SUMMARIES, app
from proxy.cli.base import (
    JsonLinesOption,
    command,
    is_unicode,
    print_error,
    print_result,
    print_summary,
    printable,
    process_each,
    progress_bar,
    reason_of,
)
from proxy.cli.renaming import move, plan
from proxy.cli.stored_metadata import search_metadata, store_metadata
from proxy.domain.errors import BadParameter, SmartserveError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter, ImageNamingConfig
from proxy.metadata.embedding.naming import SUFFIXES, filename_of, parse_timestamp
from proxy.metadata.embedding.writer import (
    FILE_MODE,
    embed,
    open_regular,
    publish,
    sidecar_json,
    sidecar_path,
)
from proxy.metadata.extraction import Extraction, Tier
from proxy.metadata.generation.finding import Source
from proxy.metadata.local_file import extract_file
from proxy.metadata.moderation import moderate
from proxy.metadata.start import open_metadata
from proxy.metadata.tiers import parse_tier, withhold
from proxy.runtime.tempfiles import TempFile, write_all
from proxy.settings import Settings
from proxy.storage.database.metadata_store import MAX_TAGS, MetadataFilter

metadata_app = typer.Typer(help=SUMMARIES["metadata"], no_args_is_help=True, rich_markup_mode=None)
app.add_typer(metadata_app, name="metadata")

_MAX_IMAGE_BYTES = 1 << 30
_MAX_JSON_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20

log = structlog.get_logger(__name__)

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Image files.")]


class Naming(StrEnum):
    """The naming conventions by their names on the command line."""

    STANDARD = "standard"
    DESCRIPTIVE = "descriptive"
    GUID = "guid"

    def config(self, suffix: str) -> ImageNamingConfig:
        """Return the configuration for files with a suffix such as ``.png``."""
        configs = {
            Naming.STANDARD: ImageNamingConfig.standard,
            Naming.DESCRIPTIVE: ImageNamingConfig.descriptive,
            Naming.GUID: ImageNamingConfig.guid_only,
        }
        return replace(configs[self](), extension=suffix.lower().removeprefix("."))


NamingOption = Annotated[Naming, typer.Option(help="The parts of a name.")]


@command("embed", group=metadata_app)
async def embed_(
    _settings: Settings,
    files: FilesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new files.")],
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with the metadata.", show_default="<stem>.metadata.json of each image"
        ),
    ] = None,
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Also write <stem>.metadata.json.")
    ] = False,
) -> int:
    """Write copies of PNG, JPEG and WebP files with metadata; pixels are not encoded again.

    No file is replaced. Prints the path of each new file and the reason for each that is skipped,
    and exits with 1 if there is one.
    """

    def embed_one(path: Path) -> str:
        source = metadata or sidecar_path(path)
        try:
            found = ImageMetadataEmbedding.from_json(_read(source, _MAX_JSON_BYTES))
        except (OSError, ValueError) as error:
            raise ValueError(f"no metadata in {source}: {_reason(error)}") from error
        # Metadata of an earlier run is replaced in the copy; the file itself is not changed.
        content = embed(_read(path, _MAX_IMAGE_BYTES), found)
        beside = sidecar_json(found) if sidecar else None
        output.mkdir(parents=True, exist_ok=True)
        return printable(str(publish(output, path.name, content, beside, generated=False)))

    skipped = await _each("embedding", files, embed_one)
    print_summary("embed", written=len(files) - skipped, skipped=skipped)
    return skipped


@command("name", group=metadata_app)
async def name_(
    _settings: Settings,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Images, or JSON files with metadata.")
    ],
    naming: NamingOption = Naming.STANDARD,
    prefix: Annotated[str | None, typer.Option(help="First part of each name.")] = None,
) -> int:
    """Print the name that each file would get by its embedded metadata; change nothing.

    Exits with 1 if a file is skipped; the reason is printed.
    """

    def name_one(path: Path) -> str:
        if path.suffix.lower() == ".json":
            found, suffix = ImageMetadataEmbedding.from_json(_read(path, _MAX_JSON_BYTES)), ".png"
        else:
            found, suffix = _require(path), path.suffix
        name = filename_of(found, naming.config(suffix), prefix)
        return f"{printable(str(path))}\t{printable(name)}"

    skipped = await _each("naming", files, name_one)
    print_summary("name", named=len(files) - skipped, skipped=skipped)
    return skipped


@command("rename", group=metadata_app)
async def rename_(
    _settings: Settings,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images.")],
    naming: NamingOption = Naming.STANDARD,
    by_date: Annotated[
        bool, typer.Option("--by-date", help="Move them to YYYY/MM/DD/images/ in the folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the new names; change nothing.")
    ] = False,
) -> int:
    """Rename the images of a folder, and their sidecars, by their embedded metadata.

    Folders below it are left alone. No file is replaced: equal names get a number. The command may
    be interrupted and repeated. Prints the reason for each image that is skipped, and exits with 1
    if there is one.
    """
    unchanged = 0
    taken: set[Path] = set()

    def rename_one(path: Path) -> str:
        nonlocal unchanged
        if path.is_symlink():
            raise ValueError("is a symbolic link")
        found, folder = _require(path), directory
        if by_date:
            folder = directory / parse_timestamp(found).strftime("%Y/%m/%d") / "images"
        name = filename_of(found, naming.config(path.suffix))
        target = (plan if dry_run else move)(path, folder / name, taken)
        if target == path:
            unchanged += 1
            return ""
        return f"{printable(str(path))}\t{printable(str(target))}"

    try:
        images = await asyncio.to_thread(_images, directory)
    except OSError as error:
        raise typer.BadParameter(printable(f"{directory}: {_reason(error)}")) from error
    skipped = await _each("renaming", images, rename_one)
    done = {"planned" if dry_run else "renamed": len(images) - skipped - unchanged}
    print_summary("rename", **done, unchanged=unchanged, skipped=skipped)
    return skipped


def _images(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return [directory / name for name in names if Path(name).suffix.lower() in SUFFIXES]


@command("extract", group=metadata_app)
async def extract_(
    settings: Settings,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...", help="Image files; with --store, media ids.", show_default=False
        ),
    ] = None,
    as_json: JsonLinesOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print the main values, one row per file.")
    ] = False,
    tier: Annotated[
        str, typer.Option(help="Withhold what this tier may not see.", show_default="enterprise")
    ] = Tier.ENTERPRISE,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Store the metadata of images of this server: of the given ids, or of all images"
            " that have none stored, or whose metadata another version of the engine has read.",
        ),
    ] = False,
) -> int:
    """Print what files say about themselves; --json prints everything.

    With --store it may be interrupted and repeated. Exits with 1 if a file is skipped; the reason
    is printed.
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    lowest = _tier(tier)
    if store:
        if lowest is not Tier.ENTERPRISE or as_csv:
            raise typer.BadParameter("--store stores everything, without --tier and --csv")
        return await _store(settings, files or [], as_json=as_json)
    if not files:
        raise typer.BadParameter("name files; or use --store for the images of this server")
    if as_csv:
        print_result(_csv_row(["file", *CSV_COLUMNS]))

    def show(path: Path, complete: Extraction) -> str:
        extraction = withhold(complete, lowest)
        if as_json:
            return json.dumps({"path": str(path), **extraction.to_dict()})
        name = printable(str(path))
        if as_csv:
            values = dict(_flat(extraction.metadata))
            return _csv_row([name, *(values.get(one, "") for one in CSV_COLUMNS)])
        lines = (
            f"  {printable(key)}: {printable(str(value))}"
            for key, value in _flat(extraction.metadata)
        )
        return "\n".join((name, *lines))

    skipped = await _extract_each(settings, "extracting", files, show)
    print_summary("extract", done=len(files) - skipped, skipped=skipped)
    return skipped


def _tier(text: str) -> Tier:
    try:
        return parse_tier(text)
    except BadParameter as error:
        raise typer.BadParameter(error.allowed, param_hint="--tier") from None


async def _store(settings: Settings, arguments: list[Path], *, as_json: bool) -> int:
    def show(media_id: int, found: Extraction) -> None:
        if as_json:
            print_result(json.dumps({"id": media_id, **found.parsed().to_dict()}))
        else:
            print_result(f"{media_id}\t{found.metadata['ai_generation']['source']}")

    return await store_metadata(settings, [_media_id(one) for one in arguments], show)


def _media_id(argument: Path) -> int:
    text = str(argument)
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) <= MAX_MEDIA_ID:
        raise typer.BadParameter(printable(f"{text}: with --store, name media ids, not files"))
    return int(text)


@command("search", group=metadata_app)
async def search_(  # noqa: PLR0913, PLR0917 - each is an option
    settings: Settings,
    ai_generator: Annotated[Source | None, typer.Option(help="Source of the generation.")] = None,
    has_prompt: Annotated[
        bool | None, typer.Option("--has-prompt/--no-prompt", help="Whether a prompt was found.")
    ] = None,
    mj_version: Annotated[str, typer.Option(help="Version of Midjourney.")] = "",
    min_quality: Annotated[
        float | None, typer.Option(min=0, help="Lowest quality of Midjourney.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag; of several, one must apply.")
    ] = None,
    user_id: Annotated[
        int | None, typer.Option(min=0, max=MAX_MEDIA_ID, help="Owner of the images.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of images.")] = 50,
    as_json: JsonLinesOption = False,
) -> None:
    """Print images of this server by their stored metadata: id, source, file name and prompt.

    All options must apply. The newest image is first.
    """
    tags = tag or []
    for option, text in (("--mj-version", mj_version), *(("--tag", one) for one in tags)):
        if not is_unicode(text):
            raise typer.BadParameter(f"{printable(text)} is not UTF-8", param_hint=option)
    if len(tags) > MAX_TAGS:
        raise typer.BadParameter(f"at most {MAX_TAGS} tags", param_hint="--tag")
    wanted = MetadataFilter(
        user_id=user_id,
        ai_generator=ai_generator or "",
        has_prompt=has_prompt,
        mj_version=mj_version,
        min_quality=min_quality,
        tags=tags,
    )
    found = await search_metadata(settings, wanted, limit=limit, as_json=as_json)
    print_summary("search", found=found)


CSV_COLUMNS = (
    *("sha256", "format", "mime_type", "width", "height", "orientation", "color_space"),
    *(f"exif.{one}" for one in ("make", "model", "software", "taken_at", "exposure", "aperture")),
    *("exif.iso", "exif.focal_length", "gps.latitude", "gps.longitude", "gps.altitude"),
    *("ai_generation.source", "ai_generation.generator", "ai_generation.involvement"),
    *("ai_generation.confidence", "ai_generation.prompt", "ai_generation.negativePrompt"),
    *("ai_generation.steps", "ai_generation.cfgScale", "ai_generation.sampler"),
    *("ai_generation.scheduler", "ai_generation.seed", "ai_generation.checkpoint"),
    *("c2pa.state", "c2pa.trust", "c2pa.issuer"),
)
"""Columns of ``extract --csv`` after the name of the file."""


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the known values with their paths, such as ``exif.make``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{number}]")
    elif value is not None:
        yield path, value


def _csv_row(cells: Iterable[object]) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow([_safe_cell(one) for one in cells])
    return row.getvalue()


def _safe_cell(value: object) -> object:
    """Return text that a spreadsheet does not take for a formula."""
    # Whitespace before the sign does not stop a spreadsheet.
    is_formula = isinstance(value, str) and value.lstrip()[:1] in _FORMULA
    return f"'{value}" if is_formula else value


_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of a formula; also their wide forms."""


@command("moderate", group=metadata_app)
async def moderate_(settings: Settings, files: FilesArgument) -> int:
    """Print flags for moderators, one JSON object per line: generator, prompt, parameters.

    The terms are metadata.moderation_terms. Prints the reason for each file that is skipped, and
    exits with 1 if there is one.
    """

    def show(path: Path, extraction: Extraction) -> str:
        flagged = moderate(extraction.metadata, settings.metadata.moderation_terms)
        return json.dumps({"path": str(path), **flagged})

    skipped = await _extract_each(settings, "moderating", files, show)
    print_summary("moderate", done=len(files) - skipped, skipped=skipped)
    return skipped


@command("classify", group=metadata_app)
async def classify_(
    settings: Settings,
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder of images.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the copies.")],
) -> int:
    """Copy images and their metadata as JSON into a folder for each generator: OUT/<generator>/.

    OUT/classification_report.json counts them. Folders below IN and symbolic links are left alone.
    Prints the reason for each image that is skipped, and exits with 1 if there is one.
    """
    try:
        images, links = await asyncio.to_thread(_classifiable, source, target)
    except OSError as error:
        raise typer.BadParameter(printable(f"{source}: {_reason(error)}")) from error
    for link in links:
        print_error("skipped", f"{link}: is a symbolic link")
    first = {path.stem: path for path in reversed(images)}
    classified: dict[str, list[str]] = {}

    def store(path: Path, extraction: Extraction) -> str:
        generator = str(extraction.metadata["ai_generation"]["source"])
        folder = target / generator
        folder.mkdir(parents=True, exist_ok=True)
        copied = folder / path.name
        _copy(path, copied)
        # Of images with one stem, the others are named in full.
        stems = [path.stem] if first[path.stem] == path else []
        _store_metadata(folder, [*stems, path.name], extraction.metadata)
        classified.setdefault(generator, []).append(path.name)
        return f"{printable(str(path))}\t{printable(str(copied))}"

    skipped = len(links) + await _extract_each(settings, "classifying", images, store)
    total = sum(map(len, classified.values()))
    report = {
        "totalProcessed": total,
        "breakdown": {key: len(names) for key, names in sorted(classified.items())},
        "files": {key: sorted(names) for key, names in sorted(classified.items())},
    }
    # Escaped, as names of files that are not UTF-8 would make it invalid.
    await asyncio.to_thread(_write_report, target, json.dumps(report, indent=2).encode())
    print_summary("classify", copied=total, skipped=skipped)
    return skipped


def _classifiable(source: Path, target: Path) -> tuple[list[Path], list[Path]]:
    """Return the images of a folder, and the symbolic links among them."""
    if target.resolve().is_relative_to(source.resolve()):
        fault = f"{target} is below {source}. Choose another folder."
        raise typer.BadParameter(printable(fault))
    images = _images(source)
    links = [path for path in images if path.is_symlink()]
    return [path for path in images if path not in links], links


def _write_report(target: Path, content: bytes) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _write(target / "classification_report.json", content, replace=True)


def _copy(path: Path, target: Path) -> None:
    """Copy a file to a new name; a copy of an earlier run may exist.

    Raises:
        FileExistsError: another file has that name.
    """
    with open_regular(path) as file, TempFile(str(target.parent), mode=FILE_MODE) as copy:
        while piece := file.read(_PIECE_BYTES):
            write_all(copy.descriptor, piece)
        os.fsync(copy.descriptor)
        try:
            copy.link(str(target))
        except FileExistsError:
            if target.is_symlink() or not filecmp.cmp(path, target, shallow=False):
                raise FileExistsError(errno.EEXIST, "", str(target)) from None


def _store_metadata(folder: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """Write the metadata of an image under the first name that is not that of another image."""
    content = json.dumps(metadata, indent=2, ensure_ascii=False).encode("utf-8", "replace")
    numbered = (f"{names[-1]}-{number}" for number in itertools.count(2))
    for name in itertools.chain(names, numbered):
        path = folder / f"{name}_metadata.json"
        with suppress(FileExistsError):
            # That of an earlier run for the same image is replaced.
            _write(path, content, replace=_sha256_in(path) == metadata["sha256"])
            return


def _sha256_in(path: Path) -> object:
    """Return the checksum of the image whose metadata a file has; "" if it has none."""
    try:
        found = json.loads(_read(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    return found.get("sha256", "") if isinstance(found, dict) else ""


def _write(path: Path, content: bytes, *, replace: bool) -> None:
    with TempFile(str(path.parent), mode=FILE_MODE) as file:
        write_all(file.descriptor, content)
        os.fsync(file.descriptor)
        (file.replace if replace else file.link)(str(path))


async def _extract_each(
    settings: Settings,
    label: str,
    files: list[Path],
    show: Callable[[Path, Extraction], str],
) -> int:
    """Extract files, several at a time, and print the text of each; count those that fail."""
    concurrency = settings.metadata.engines or len(os.sched_getaffinity(0))
    # `show` may write files.
    showing = asyncio.Lock()
    async with open_metadata(settings.metadata, settings.workers) as service:

        async def extract_one(path: Path) -> bool:
            try:
                extraction = await extract_file(service, path)
                async with showing:
                    text = await asyncio.to_thread(show, path, extraction)
            except SmartserveError:
                raise
            except (OSError, ValueError) as error:
                print_error("skipped", f"{path}: {_reason(error)}")
                return False
            except Exception as error:
                # An unforeseen error with one file must not end the run.
                log.exception("metadata_file_failed")
                print_error("skipped", f"{path}: internal error: {error!r}")
                return False
            await asyncio.to_thread(print_result, text)
            return True

        def report(path: Path, error: SmartserveError) -> None:
            print_error("skipped", f"{path}: {reason_of(error)}")

        with progress_bar(label, len(files)) as progress:
            skipped = await process_each(
                files, extract_one, progress=progress, concurrency=concurrency, on_error=report
            )
    return skipped


async def _each(label: str, files: list[Path], process: Callable[[Path], str]) -> int:
    """Process files one after the other, and print a line for each; count those that fail."""
    skipped = 0
    with progress_bar(label, len(files)) as progress:
        for path in files:
            try:
                # In a thread: on a file system that does not respond, Ctrl-C would have no effect.
                line = await asyncio.to_thread(process, path)
            except (OSError, ValueError) as error:
                print_error("skipped", f"{path}: {_reason(error)}")
                skipped += 1
            else:
                # Not above: an error of standard output is none of this file, which is done.
                if line:
                    await asyncio.to_thread(print_result, line)
            progress.advance(progress.task_ids[0])
    return skipped


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileExistsError):
        return f"{error.filename2 or error.filename} exists already"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _read(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"is larger than {limit >> 20:,} MiB")
    return content


def _require(path: Path) -> ImageMetadataEmbedding:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"its name does not end with one of {', '.join(SUFFIXES)}")
    found = ImageMetadataWriter().extract_metadata(path)
    if found is None:
        raise ValueError("has no metadata of the generation. Use `smartserve metadata embed`.")
    return found
