"""The doctor's check of private images."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.doctor.access import judge_access, without_keys
from proxy.doctor.check import Verdict
from proxy.domain.media import Visibility
from tests.support.server import make_settings

KEYS = {"keys": {"a": "k" * 32}}
PROFILES = {"default_visibility": {"profile": "private"}}


@pytest.mark.parametrize(
    ("access", "private", "can_sign", "verdict"),
    [
        ({}, 0, False, Verdict.OK),
        ({}, 1, False, Verdict.FAIL),
        (PROFILES, 0, False, Verdict.FAIL),
        (KEYS, 3, True, Verdict.OK),
        ({**KEYS, **PROFILES}, 0, True, Verdict.OK),
    ],
)
def test_private_images_without_a_key_are_a_fault(
    tmp_path: Path, access: dict[str, object], private: int, verdict: Verdict, *, can_sign: bool
) -> None:
    settings = make_settings(tmp_path, access=access)
    found = judge_access(settings, private, can_sign=can_sign)
    assert found.verdict is verdict
    assert bool(found.advice) is (verdict is Verdict.FAIL)


def test_defaults_are_known_without_a_key(tmp_path: Path) -> None:
    access = without_keys(make_settings(tmp_path, access=PROFILES))
    assert access.defaults["profile"] is Visibility.PRIVATE
    assert not access.keys.can_sign
