"""Deferred JSON: parsed by its first use, and printed without being parsed."""

from __future__ import annotations

import orjson
import pytest

from proxy.runtime.deferred_json import DeferredArray, DeferredJson, DeferredObject, dumps, parsed

_OBJECT, _ARRAY = b'{"a": [1, "\xc3\xa9"], "b": null}', b'[{"x": 1}, 2]'


def test_a_deferred_value_is_printed_byte_for_byte() -> None:
    # Invalid JSON shows that it was not parsed.
    assert dumps({"one": DeferredObject(b"{never parsed"), "two": [DeferredArray(b"[")]}) == (
        b'{"one":{never parsed,"two":[[]}'
    )


def test_a_deferred_object_is_a_mapping() -> None:
    value = DeferredObject(_OBJECT)
    assert (value["a"], [*value], len(value), value.get("c")) == ([1, "é"], ["a", "b"], 2, None)
    assert value == {"a": [1, "é"], "b": None}


def test_a_deferred_array_is_a_sequence() -> None:
    value = DeferredArray(_ARRAY)
    assert (value[1], [*value], len(value), value[:1]) == (2, [{"x": 1}, 2], 2, [{"x": 1}])
    assert value == [{"x": 1}, 2]
    assert value != [2]
    assert value != 2


@pytest.mark.parametrize("value", [DeferredObject(b"{"), DeferredArray(b"[1")])
def test_invalid_json_is_an_error_of_the_first_use(value: DeferredObject | DeferredArray) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        len(value)


def test_parsed_replaces_the_deferred_parts_of_objects() -> None:
    found = parsed({"o": {"d": DeferredObject(_OBJECT)}, "a": DeferredArray(_ARRAY), "n": [1]})
    assert found == {"o": {"d": orjson.loads(_OBJECT)}, "a": orjson.loads(_ARRAY), "n": [1]}
    assert not isinstance(found["a"], DeferredJson)
    assert not isinstance(found["o"]["d"], DeferredJson)


def test_other_types_are_refused_as_by_orjson() -> None:
    with pytest.raises(TypeError, match="object"):
        dumps(object())
