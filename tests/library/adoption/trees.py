"""Storage trees of another system, and their adoption in a test."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from proxy.app.adoption import open_adopter, open_inventory, path_below, place_of
from proxy.app.services import Services
from proxy.domain.media import DataType
from proxy.library.adoption.adopt import AdoptedMedia, Outcome
from proxy.library.adoption.file_names import AdoptionOwner
from proxy.library.adoption.grouping import groups
from proxy.library.adoption.inventory import SkippedFile, enter_files, enter_rows
from tests.support.server import SAMPLES

BULK = "bulk/2024-05-01"
LIBRARY = "library/user_123/product/img"
LOGOS = "library/user_9/logo/img"
SIZES = {"small": (480, 480), "grid": (500, 500), "detail": (1200, 1200)}


def photo(width: int = 1536, *, name: str = "kodak-23.jpg") -> Image.Image:
    """Return a sample, enlarged so that ``detail`` is smaller."""
    picture = Image.open(SAMPLES / name).convert("RGB")
    return picture.resize((width, width * picture.height // picture.width))


def logo() -> Image.Image:
    return Image.open(SAMPLES / "badge.png").convert("RGBA")


def save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def premade(picture: Image.Image, stem: Path, suffixes: tuple[str, ...]) -> None:
    """Save the sizes of the requirements document in several formats: ``<stem>-grid.webp``."""
    for suffix in suffixes:
        shown = picture if suffix != "jpg" else picture.convert("RGB")
        square = ImageOps.fit(shown, (300, 300))
        save(square, stem.with_name(f"{stem.name}-thumbnail.{suffix}"))
        for name, box in SIZES.items():
            lesser = shown.copy()
            lesser.thumbnail(box)
            save(lesser, stem.with_name(f"{stem.name}-{name}.{suffix}"))


def whole_tree(root: Path) -> None:
    """Save a photograph and a transparent logo: originals in ``bulk`` and all sizes."""
    save(photo(), root / BULK / "sunset-123.jpg")
    premade(photo(), root / LIBRARY / "sunset-123", ("jpg", "webp", "avif"))
    save(logo(), root / BULK / "456-logo-789.png")
    premade(logo(), root / LOGOS / "456-logo-789", ("png", "webp"))


async def adopt(services: Services, directory: Path, *, reserve: bool = False) -> list[Outcome]:
    """Adopt a tree as the command does, without its output."""
    settings = services.settings
    place, owner = place_of(settings, directory), AdoptionOwner(1, DataType.EVENT)
    outcomes: list[Outcome] = []
    with open_inventory(settings, place) as inventory:
        outcomes += [one async for one in enter_files(inventory, place.root, place.start)]
        await enter_rows(inventory, services.storage.repository, path_below(settings, place))
        inventory.finish()
        async with open_adopter(services, place, owner) as adopter:
            async for page in groups(inventory):
                for group in page:
                    outcomes += await adopter.adopt(group)
    if reserve:
        for one in adopted(outcomes):
            await services.fallback_renderer.fill(one.media_id)
    return outcomes


def adopted(outcomes: list[Outcome]) -> list[AdoptedMedia]:
    return [one for one in outcomes if isinstance(one, AdoptedMedia)]


def skipped(outcomes: list[Outcome]) -> dict[str, str]:
    return {one.path: one.reason for one in outcomes if isinstance(one, SkippedFile)}
