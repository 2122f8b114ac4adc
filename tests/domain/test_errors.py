"""The error tree: as drawn, so built."""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus

import pytest

from proxy.domain import errors
from proxy.domain.errors import (
    BadParameter,
    ConfigurationError,
    MediaNotFound,
    QueueFull,
    RangeNotSatisfiable,
    SmartserveError,
)

# "|   +-- BadParameter            400  names the parameter": depth, name, status.
_DRAWN = re.compile(
    r"^(?P<lead>[| ]*)\+-- (?P<name>\w+)(?: +(?P<status>[0-9]{3})\b)?", re.MULTILINE
)
_INDENT = 4

CLASSES: dict[str, type[SmartserveError]] = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SmartserveError) and kind is not SmartserveError
}


def drawn() -> dict[str, tuple[str, int | None]]:
    """Parent and status of each class, as the docstring of the module draws them."""
    tree: dict[str, tuple[str, int | None]] = {}
    above = ["SmartserveError"]
    for line in _DRAWN.finditer(inspect.cleandoc(errors.__doc__ or "")):
        del above[len(line["lead"]) // _INDENT :]
        status = int(line["status"]) if line["status"] else None
        tree[line["name"]] = above[-1], status
        above.append(line["name"])
    return tree


def test_every_class_is_drawn_below_its_parent() -> None:
    built = {name: kind.__base__ for name, kind in CLASSES.items()}
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: parent.__name__ for name, parent in built.items() if parent is not None
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_the_status_that_is_drawn_beside_it_or_its_parent(name: str) -> None:
    tree = drawn()
    parent, status = tree[name]
    expected = status or (tree[parent][1] if parent in tree else None)
    assert expected is None or CLASSES[name].status == expected


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_status_of_http_and_a_title(name: str) -> None:
    assert HTTPStatus(CLASSES[name].status) >= HTTPStatus.BAD_REQUEST
    assert CLASSES[name].title[0].isupper()


def test_what_the_client_did_is_never_reported_as_a_fault_of_ours() -> None:
    assert not any(
        kind.reported for kind in CLASSES.values() if issubclass(kind, errors.RequestError)
    )
    assert not MediaNotFound.reported


def test_an_error_carries_the_public_sentence_and_the_time_to_wait() -> None:
    error = QueueFull("too many pictures are waiting", retry_after_s=2)
    assert str(error) == error.detail == "too many pictures are waiting"
    assert error.retry_after_s == 2
    assert QueueFull("again").retry_after_s is None


def test_a_bad_parameter_names_itself_and_what_is_allowed() -> None:
    error = BadParameter("size", "one of a, b")
    assert (error.parameter, error.allowed) == ("size", "one of a, b")
    assert error.detail == "size must be one of a, b"


def test_a_range_that_lies_outside_tells_the_length() -> None:
    assert RangeNotSatisfiable(1234).length == 1234


def test_a_configuration_tells_all_its_faults_in_lines() -> None:
    error = ConfigurationError(["a: one", "b: two"])
    assert error.faults == ("a: one", "b: two")
    assert str(error).splitlines() == ["a: one", "b: two"]
