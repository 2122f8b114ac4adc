"""Renaming of one image: which names are free, which are hard links, and what is never removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.renaming import move, plan


def new(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or path.name)
    return path


def names(folder: Path) -> dict[str, str]:
    """Return the text of each file by its name."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def both(path: Path, wanted: Path, taken: set[Path]) -> str:
    """Plan a move, then move; return the new name, which both must give."""
    expected = {*taken}
    planned = plan(path, wanted, expected)
    target = move(path, wanted, taken)
    assert (target, taken) == (planned, expected)
    return target.name


def test_an_image_and_its_sidecar_get_the_first_free_name(tmp_path: Path) -> None:
    path = new(tmp_path / "a.png")
    new(tmp_path / "a.metadata.json")
    new(tmp_path / "T.png")
    assert both(path, tmp_path / "T.png", set()) == "T-2.png"
    assert names(tmp_path) == {
        "T-2.metadata.json": "a.metadata.json", "T-2.png": "a.png", "T.png": "T.png",
    }  # fmt: skip
    assert both(tmp_path / "T-2.png", tmp_path / "T.png", set()) == "T-2.png", "unchanged"


@pytest.mark.parametrize("folder", ["", "2025/images"])
def test_hard_links_keep_as_many_names(folder: str, tmp_path: Path) -> None:
    paths = [new(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png"]
    for path in paths[1:]:
        path.hardlink_to(paths[0])
    new(tmp_path / "b.metadata.json")
    wanted, taken = tmp_path / folder / "T.png", set[Path]()
    assert [both(path, wanted, taken) for path in paths] == ["T.png", "T-2.png", "T-3.png"]
    assert len(names(tmp_path)) == 4
    assert names(tmp_path / folder)["T-2.metadata.json"] == "b.metadata.json"
    if not folder:
        # Another run, in the order of the names.
        for name in ("T-2.png", "T-3.png", "T.png"):
            assert both(tmp_path / name, wanted, set()) == name
        assert len(names(tmp_path)) == 4


@pytest.mark.parametrize("folder", ["", "2025/images"])
def test_an_interrupted_run_is_continued_for_each_hard_link(folder: str, tmp_path: Path) -> None:
    """Killed after the new name of the first image, before its old name was removed."""
    wanted, taken = tmp_path / folder / "T.png", set[Path]()
    paths = [new(tmp_path / "a.png"), tmp_path / "b.png"]
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for path in (paths[1], wanted):
        path.hardlink_to(paths[0])
    assert [both(path, wanted, taken) for path in paths] == ["T.png", "T-2.png"]
    assert len(names(tmp_path)) == 2


def test_a_symbolic_link_under_the_new_name_is_not_the_file_itself(tmp_path: Path) -> None:
    """To take it for the file would remove the only name of the content."""
    path = new(tmp_path / "a.png")
    sidecar = new(tmp_path / "a.metadata.json")
    (tmp_path / "T.png").symlink_to(path)
    (tmp_path / "T-2.metadata.json").symlink_to(sidecar)
    assert both(path, tmp_path / "T.png", set()) == "T-3.png"
    assert (tmp_path / "T-3.png").read_text() == "a.png"
    assert (tmp_path / "T-3.metadata.json").read_text() == "a.metadata.json"


def test_a_sidecar_stays_if_only_the_suffix_of_the_image_changes(tmp_path: Path) -> None:
    path = new(tmp_path / "T.PNG")
    new(tmp_path / "T.metadata.json")
    assert both(path, tmp_path / "T.png", set()) == "T.png"
    assert names(tmp_path) == {"T.metadata.json": "T.metadata.json", "T.png": "T.PNG"}


def test_a_plan_of_all_images_is_what_moving_them_does(tmp_path: Path) -> None:
    """The sidecar of the first takes the name that the sidecar of the second would get."""
    paths = [new(tmp_path / "a.jpg"), new(tmp_path / "b.png")]
    for path in paths:
        new(path.with_suffix(".metadata.json"))
    planned, moved = set[Path](), set[Path]()
    plans = [plan(path, tmp_path / f"T{path.suffix}", planned) for path in paths]
    moves = [move(path, tmp_path / f"T{path.suffix}", moved) for path in paths]
    assert [one.name for one in moves] == ["T.jpg", "T-2.png"]
    assert (plans, planned) == (moves, moved)


def test_a_file_that_disappears_meanwhile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "a.png", tmp_path / "T.png", set())
    assert not names(tmp_path)
