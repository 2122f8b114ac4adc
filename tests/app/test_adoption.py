"""The location of a tree to adopt."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.adoption import TreePlace, path_below, place_of
from proxy.domain.errors import ConfigurationError
from proxy.settings import Settings
from tests.support.server import make_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path / "data")
    (settings.storage_root / "bulk").mkdir(parents=True)
    return settings


def test_a_tree_below_the_storage_root_stays_in_place(settings: Settings) -> None:
    root = settings.storage_root.resolve()
    assert place_of(settings, settings.storage_root) == TreePlace(root, "", in_place=True)
    assert place_of(settings, root / "bulk") == TreePlace(root, "bulk", in_place=True)


def test_another_tree_is_copied(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    place = place_of(settings, tmp_path / "photos")
    assert place == TreePlace((tmp_path / "photos").resolve(), "", in_place=False)


@pytest.mark.parametrize(("name", "reason"), [("missing", "is not a folder"), (".", "contains")])
def test_a_tree_that_is_missing_or_contains_the_storage_root_is_refused(
    settings: Settings, tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        place_of(settings, tmp_path / name)


def test_paths_of_the_database_are_found_in_a_tree_in_place_only(
    settings: Settings, tmp_path: Path
) -> None:
    stored = str(settings.storage_root.absolute() / "bulk" / "a.jpg")
    inside = path_below(settings, place_of(settings, settings.storage_root / "bulk"))
    assert inside(stored) == "bulk/a.jpg"
    assert inside("../a.jpg") is None
    (tmp_path / "photos").mkdir()
    outside = path_below(settings, place_of(settings, tmp_path / "photos"))
    assert outside(stored) is None
