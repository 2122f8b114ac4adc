"""The guard: who is let pass, who is refused and for how long, and what is told."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import AccessDisabled, AccessError, TooManyFailures, Unauthorized
from proxy.web.auth.api_key import AuthFailure, Caller, FailureLimit, KeyGuard, caller_of

KEY = "correct-horse-battery-staple"


class Door:
    """A guard with a clock that stands until it is moved, and what it counts."""

    def __init__(self, key: str = KEY, *, max_failures: int = 3) -> None:
        self.now = 1000.0
        self.refused: Counter[AuthFailure] = Counter()
        self.limit = FailureLimit(max_failures=max_failures, window_s=60, clock=lambda: self.now)
        self.guard = KeyGuard(
            key, advice="set one", limit=self.limit, on_refusal=self._count, realm="test"
        )

    def _count(self, reason: AuthFailure) -> None:
        self.refused[reason] += 1

    def knock(self, *lines: str, remote: str = "192.0.2.1", **headers: str) -> AccessError | None:
        """What is raised for these Authorization lines, or None for who is let pass."""
        pairs = [*(("Authorization", line) for line in lines), *headers.items()]
        request = make_mocked_request("DELETE", "/", headers=pairs)
        try:
            self.guard.check(request.clone(remote=remote))
        except AccessError as error:
            return error
        return None

    def wrong(self, **where: str) -> AccessError | None:
        return self.knock("Bearer wrong", **where)

    def right(self, **where: str) -> AccessError | None:
        return self.knock(f"Bearer {KEY}", **where)


@pytest.mark.parametrize("line", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY} "])
def test_who_shows_the_key_is_let_pass(line: str) -> None:
    assert Door().knock(line) is None


def test_who_shows_nothing_is_told_the_scheme_alone() -> None:
    error = Door().knock()
    assert isinstance(error, Unauthorized)
    assert error.challenge == 'Bearer realm="test"'


@pytest.mark.parametrize(
    "lines",
    [
        ["Bearer"],
        ["Bearer "],
        [""],
        [KEY],
        [f"Basic {KEY}"],
        [f"Bearer{KEY}"],
        [f"Bearer {KEY} {KEY}"],
        [f"Bearer {KEY},{KEY}"],
        [f"Bearer ={KEY}"],
        [f'Bearer "{KEY}"'],
        [f"Bearer {KEY}\xff"],
        [f"Bearer {KEY}", f"Bearer {KEY}"],
        [f"Bearer {KEY}", "Bearer wrong"],
    ],
)
def test_a_malformed_header_is_refused_and_says_so(lines: list[str]) -> None:
    door = Door()
    error = door.knock(*lines)
    assert isinstance(error, Unauthorized)
    assert error.challenge.startswith('Bearer realm="test", error="invalid_token", error_desc')
    assert door.refused == {AuthFailure.MALFORMED: 1}


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60))
def test_no_other_text_is_the_key(text: str) -> None:
    assert isinstance(Door(max_failures=9).knock(f"Bearer {text}"), Unauthorized) or text == KEY


@pytest.mark.parametrize(
    "near", [KEY[:-1], KEY + "x", KEY.upper(), KEY.replace("-", "_"), KEY + "="]
)
def test_a_key_that_is_nearly_right_is_wrong(near: str) -> None:
    door = Door()
    error = door.knock(f"Bearer {near}")
    assert isinstance(error, Unauthorized)
    assert 'error="invalid_token"' in error.challenge
    assert door.refused == {AuthFailure.WRONG: 1}


def test_what_is_compared_is_of_one_length_and_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    door = Door(max_failures=99)
    for length in (1, 16, 27, 28, 29, 4000):
        door.knock("Bearer " + "x" * length)
    assert door.right() is None
    assert len(compared) == 7
    assert {len(side) for pair in compared for side in pair} == {32}


def test_nobody_passes_where_no_key_is_set() -> None:
    door = Door("")
    for lines in ([], ["Bearer "], [f"Bearer {KEY}"]):
        error = door.knock(*lines)
        assert isinstance(error, AccessDisabled)
        assert error.detail == "set one"
    assert door.refused == {AuthFailure.NO_KEY_SET: 3}


def test_the_guard_does_not_keep_the_key_itself() -> None:
    guard = Door().guard
    assert KEY not in repr({name: getattr(guard, name) for name in vars(guard)})


def test_after_too_many_wrong_keys_not_even_the_right_one_is_heard() -> None:
    door = Door()
    assert [type(door.wrong()) for _ in range(3)] == [Unauthorized] * 3
    door.now += 10.5
    error = door.right()
    assert isinstance(error, TooManyFailures)
    assert error.retry_after_s == 50
    assert door.refused == {AuthFailure.WRONG: 3, AuthFailure.BLOCKED: 1}


def test_a_block_ends_after_the_window_however_often_one_knocked_meanwhile() -> None:
    door = Door()
    for _ in range(3):
        door.wrong()
    for _ in range(50):
        door.now += 1
        assert isinstance(door.wrong(), TooManyFailures)
    door.now += 10
    assert door.right() is None


def test_a_right_key_does_not_wipe_out_the_failures_of_its_address() -> None:
    door = Door()
    for _ in range(2):
        door.wrong()
    assert door.right() is None
    door.wrong()
    assert isinstance(door.right(), TooManyFailures)


@pytest.mark.parametrize("times", [1, 100])
def test_headers_without_a_guess_do_not_count_as_wrong_keys(times: int) -> None:
    door = Door()
    for _ in range(times):
        door.knock()
        door.knock("Basic abc")
    assert door.right() is None


def test_who_has_not_failed_is_heard_whatever_all_others_do() -> None:
    door = Door()
    for one in range(20_000):
        door.limit.failed(Caller(f"198.51.100.{one}", passed_on=False))
    assert door.right(remote="192.0.2.9") is None


def test_in_a_crowd_one_wrong_key_is_enough() -> None:
    door = Door()
    for one in range(30):
        door.wrong(remote=f"198.51.100.{one}")
    assert isinstance(door.wrong(remote="192.0.2.9"), Unauthorized)
    assert isinstance(door.right(remote="192.0.2.9"), TooManyFailures)
    door.now += 61
    assert door.right(remote="192.0.2.9") is None
    door.wrong(remote="192.0.2.9")
    assert door.right(remote="192.0.2.9") is None, "the crowd has gone"


def test_what_is_remembered_of_failures_is_bounded() -> None:
    door = Door()
    for one in range(12_000):
        door.limit.failed(Caller(f"198.51.100.{one}", passed_on=False))
    assert len(door.limit._callers) <= 10_000


def test_who_calls_past_the_proxy_is_not_refused_for_those_who_come_through_it() -> None:
    door = Door()
    for header in ("X-Forwarded-For", "Forwarded", "Via"):
        door.wrong(remote="127.0.0.1", **{header: "for=203.0.113.9"})
    through = {"remote": "127.0.0.1", "X-Forwarded-For": "198.51.100.1"}
    assert isinstance(door.right(**through), TooManyFailures)
    assert door.right(remote="127.0.0.1") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("", "/run/smartserve.sock", True),
    ],
)
def test_failures_are_counted_by_address_or_by_its_64(one: str, other: str, *, same: bool) -> None:
    def caller(remote: str) -> Caller:
        return caller_of(make_mocked_request("GET", "/").clone(remote=remote))

    assert (caller(one) == caller(other)) == same


@pytest.mark.parametrize("knock", [Door.wrong, Door.right])
def test_a_refusal_never_repeats_the_key(knock: Callable[[Door], AccessError | None]) -> None:
    door = Door(max_failures=1)
    door.knock(f"Bearer {KEY}x")
    error = knock(door)
    assert error is not None
    assert KEY not in f"{error!r} {error.detail} {vars(error)}"
