"""The last part of the path: an id and an extension, or a bad parameter, whatever is written."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.errors import BadParameter
from proxy.web.handlers.images import parse_name

NAMES = st.builds(
    "{}{}{}".format,
    st.integers(0, 10**20),
    st.sampled_from(["", ".", "..", "/", "\0", "\n", "%00", ";", "\\"]),
    st.sampled_from(["", "webp", "JPG", "php", "../x", "we\0bp", "wébp", "x" * 9]),
)


def parsed(name: str) -> tuple[int, str | None] | str:
    """What a name says, or the parameter that is bad."""
    try:
        return parse_name(name)
    except BadParameter as error:
        return error.parameter


@given(st.text() | NAMES)
@example("\u0661")
@example("1\n")
@example("1.webp\n")
def test_any_name_is_an_id_with_an_extension_or_a_bad_parameter(name: str) -> None:
    found = parsed(name)
    if isinstance(found, str):
        assert found == "media_id"
        return
    digits, dot, rest = name.partition(".")
    assert digits.isascii()
    assert digits.isdecimal()
    assert found == (int(digits), rest if dot else None)
    assert int(digits) < 10**19
    assert rest.isascii()
    assert rest.isalnum() == bool(dot)
