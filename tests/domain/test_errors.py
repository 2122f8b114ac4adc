"""The error tree and its drawing in the docstring."""

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
    """Return parent and status of each class as the module docstring draws them."""
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
def test_every_class_has_the_drawn_status_or_that_of_its_parent(name: str) -> None:
    tree = drawn()
    parent, status = tree[name]
    expected = status or (tree[parent][1] if parent in tree else None)
    assert expected is None or CLASSES[name].status == expected


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_an_http_status_and_a_title(name: str) -> None:
    assert HTTPStatus(CLASSES[name].status) >= HTTPStatus.BAD_REQUEST
    assert CLASSES[name].title[0].isupper()


def test_faults_of_the_client_are_not_reported_to_the_operator() -> None:
    assert not any(
        kind.reported for kind in CLASSES.values() if issubclass(kind, errors.RequestError)
    )
    assert not MediaNotFound.reported


def test_an_error_has_a_public_sentence_and_a_retry_delay() -> None:
    error = QueueFull("the render queue is full", retry_after_s=2)
    assert str(error) == error.detail == "the render queue is full"
    assert error.retry_after_s == 2
    assert QueueFull("again").retry_after_s is None


def test_a_bad_parameter_names_itself_and_the_allowed_values() -> None:
    error = BadParameter("size", "one of a, b")
    assert (error.parameter, error.allowed) == ("size", "one of a, b")
    assert error.detail == "size must be one of a, b"


def test_an_unsatisfiable_range_has_the_full_length() -> None:
    assert RangeNotSatisfiable(1234).length == 1234


def test_a_configuration_error_has_one_line_for_each_fault() -> None:
    error = ConfigurationError(["a: one", "b: two"])
    assert error.faults == ("a: one", "b: two")
    assert str(error).splitlines() == ["a: one", "b: two"]


def test_a_class_inherits_what_it_does_not_set() -> None:
    assert (errors.CommitUncertain.status, errors.CommitUncertain.reported) == (503, True)
    assert errors.MediaNotReady.status == errors.SourceError.status


def test_a_class_may_clear_the_report_of_its_parent() -> None:
    assert errors.MainApiRefused.reported
    assert not errors.UploadGone.reported


def test_setting_a_class_does_not_change_its_parent() -> None:
    assert errors.RequestError.status == 400
    assert SmartserveError.status == 500
