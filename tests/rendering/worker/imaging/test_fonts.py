"""Where the fonts for SVGs come from, and what is said if there are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.rendering.worker.imaging import fonts


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FONTCONFIG_FILE", "")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setitem(fonts._state, "missing", "")


def test_the_package_and_the_configuration_are_all_that_is_read() -> None:
    folder, configuration = map(Path, fonts.find(system=False))
    assert (folder.name, configuration.name) == (fonts.PACKAGE, "fonts.conf")
    assert list(folder.glob("*.ttf"))
    fonts.use((str(folder), str(configuration)))
    assert not fonts.missing()
    assert Path(os.environ["XDG_DATA_HOME"]) / fonts.PACKAGE == folder
    assert os.environ["FONTCONFIG_FILE"] == str(configuration)


def test_fonts_of_the_system_are_added_if_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fonts, "SYSTEM_FOLDERS", (str(tmp_path), str(tmp_path / "absent")))
    assert str(tmp_path) not in fonts.find(system=False)
    assert fonts.find(system=True)[0] == str(tmp_path)
    monkeypatch.setattr(fonts, "_packaged", lambda: None)
    assert fonts.find(system=True)[0] == str(tmp_path)
    assert fonts.find(system=False) == ()


def test_the_reason_for_missing_fonts_is_named(tmp_path: Path) -> None:
    fonts.use(())
    assert fonts.missing() == "the extra svg is not installed"
    fonts.use(fonts.find(system=False), refused="no Landlock: not supported")
    assert fonts.missing() == "no Landlock: not supported"
    fonts.use((str(tmp_path / "gone"),))
    assert f"cannot read {tmp_path / 'gone'}" in fonts.missing()
