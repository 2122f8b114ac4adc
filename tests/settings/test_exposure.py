"""The key from its file, and on which addresses a server without one may listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings import Settings, access_faults, admin_key
from proxy.settings.exposure import is_loopback
from proxy.settings.sections import AdminSettings

KEY = "correct-horse-battery-staple"


def settings(host: str, **admin: object) -> Settings:
    return Settings.model_validate({"server": {"host": host}, "admin": admin})


def test_the_key_is_that_of_the_settings() -> None:
    assert admin_key(AdminSettings(key=KEY)) == KEY
    assert admin_key(AdminSettings()) == ""


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n\n"])
def test_the_key_is_read_from_its_file_without_the_space_around_it(
    around: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(around.format(KEY))
    assert admin_key(AdminSettings(key_file=str(file))) == KEY


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "must have 16 characters"),
        (b"\n", "must have 16 characters"),
        (b"short", "must have 16 characters"),
        (KEY.encode() + b"\n" + KEY.encode(), "must be ASCII letters"),
        (b"\xff\xfe" * 20, "must be ASCII letters"),
        (b"\xc3\xa4" * 20, "must be ASCII letters"),
    ],
)
def test_a_file_that_holds_no_key_is_a_fault_that_does_not_repeat_it(
    content: bytes, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        admin_key(AdminSettings(key_file=str(file)))
    assert str(caught.value).startswith(f"admin.key_file: the key in it {told}")
    assert KEY not in str(caught.value)


def test_a_file_that_cannot_be_read_is_a_fault_that_does_not_repeat_the_setting() -> None:
    (fault,) = access_faults(settings("127.0.0.1", key_file=KEY))
    assert fault == "admin.key_file: its file cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "::ffff:127.0.0.1", "127.1"]
)
def test_loopback_needs_no_key(host: str) -> None:
    assert access_faults(settings(host)) == []


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "",
        "0",
        "::ffff:0.0.0.0",
        "::ffff:10.0.0.1",
        "10.0.0.1",
        "203.0.113.7",
        "fe80::1",
        "no-such-host.invalid",
        "a" * 70,
        "*",
    ],
)
def test_an_address_that_others_can_reach_needs_a_key(host: str) -> None:
    (fault,) = access_faults(settings(host))
    assert fault.startswith(f"admin.key: other machines can reach server.host = {host!r}")
    assert "SMARTSERVE_ADMIN__KEY" in fault
    assert "admin.enabled = false" in fault
    assert access_faults(settings(host, key=KEY)) == []
    assert access_faults(settings(host, enabled=False)) == []


def test_a_name_is_as_public_as_the_most_public_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_loopback("host.example")
