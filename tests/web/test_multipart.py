"""The form parser: which files it yields, and which forms it rejects."""

from __future__ import annotations

import pytest

from proxy.domain.errors import BodyTooLarge, BodyTooSlow, RequestError, UnsupportedBody
from proxy.web.multipart import MAX_FILES, Form
from tests.support.uploads import BOUNDED, parts
from tests.web.bodies import body_request

MAX_BYTES = MAX_FILES * 1000 + 1024 * 1024
FILE = {"Content-Disposition": 'form-data; name="logo_image"; filename="a.png"'}
TEXT = {"Content-Disposition": 'form-data; name="bio"'}


async def read(*sent: bytes, complete: bool = True) -> list[tuple[str, str, bytes]]:
    """Return field, file name and bytes of each file."""
    form = Form(
        body_request(sent, complete=complete, headers=BOUNDED), max_file_bytes=1000, stall_s=600
    )
    return [
        (one.field, one.name, b"".join([chunk async for chunk in one.chunks]))
        async for one in form.files()
    ]


async def test_files_are_yielded_in_order_and_texts_are_skipped() -> None:
    body = parts(TEXT, FILE, TEXT, FILE, body=b"bytes")
    assert await read(body) == [("logo_image", "a.png", b"bytes")] * 2


async def test_a_file_has_the_type_that_its_part_declares() -> None:
    body = parts({**FILE, "Content-Type": "image/jpeg"}, FILE, body=b"bytes")
    form = Form(body_request([body], headers=BOUNDED), max_file_bytes=1000, stall_s=600)
    types = []
    async for one in form.files():
        types.append(one.content_type)
        async for _ in one.chunks:
            pass
    assert types == ["image/jpeg", ""]


async def test_chunk_boundaries_do_not_matter() -> None:
    body = parts(FILE, body=b"bytes" * 100)
    chunks = [body[at : at + 7] for at in range(0, len(body), 7)]
    assert await read(*chunks) == [("logo_image", "a.png", b"bytes" * 100)]


async def test_a_field_without_a_chosen_file_is_a_text() -> None:
    empty = {"Content-Disposition": 'form-data; name="logo_image"; filename=""'}
    assert await read(parts(empty, body=b"")) == []


@pytest.mark.parametrize("charset", [b"UTF-8", b"", b"u" * 200])
@pytest.mark.parametrize("name", ['name="_charset_"', "name=\"_charset_\"; name*=UTF-8''bio"])
async def test_a_field_that_names_the_charset_is_a_text_like_any_other(
    name: str, charset: bytes
) -> None:
    head = {"Content-Disposition": f"form-data; {name}"}
    end = b"--b--\r\n"
    field = parts(head, body=charset).removesuffix(end)
    files = parts(FILE, TEXT, FILE, body=b"bytes").removesuffix(end)
    for body in (field + files + end, files + field + end):
        assert await read(body) == [("logo_image", "a.png", b"bytes")] * 2


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"Content-Disposition": "form-data"}, "needs a name"),
        ({"Content-Disposition": 'form-data; name="x"; filename="y"'}, "does not accept files"),
        ({"Content-Type": "multipart/mixed; boundary=c"}, "nested forms"),
    ],
)
async def test_a_part_that_is_not_allowed_is_rejected(head: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        await read(parts(head, body=b"x"))


@pytest.mark.parametrize(
    "extra", [{"Content-Encoding": "gzip"}, {"Content-Transfer-Encoding": "base64"}]
)
async def test_an_encoded_part_is_rejected(extra: dict[str, str]) -> None:
    with pytest.raises(UnsupportedBody):
        await read(parts({**FILE, **extra}, body=b"x"))


async def test_the_number_of_files_and_texts_is_limited() -> None:
    with pytest.raises(RequestError, match="at most 10 files"):
        await read(parts(*[FILE] * (MAX_FILES + 1), body=b"x"))
    with pytest.raises(RequestError, match="at most 100 text fields"):
        await read(parts(*[TEXT] * 101, body=b"x"))


async def test_the_size_of_a_text_is_limited() -> None:
    with pytest.raises(BodyTooLarge, match="text field"):
        await read(parts(TEXT, body=b"x" * 70_000))


async def test_the_size_of_the_whole_form_is_limited_while_it_arrives() -> None:
    endless = parts(FILE, body=b"x" * (MAX_BYTES + 1))
    with pytest.raises(BodyTooLarge, match="form"):
        await read(endless, complete=False)


async def test_a_declared_length_over_the_limit_is_rejected_at_once() -> None:
    headers = {**BOUNDED, "Content-Length": str(MAX_BYTES + 1)}
    with pytest.raises(BodyTooLarge):
        Form(body_request(complete=False, headers=headers), max_file_bytes=1000, stall_s=600)


@pytest.mark.parametrize("body", [b"", b"x" * 100, b"--b\r\nX\r\n\r\nx\r\n--b--\r\n"])
async def test_a_malformed_form_is_rejected(body: bytes) -> None:
    with pytest.raises(RequestError):
        await read(body)


async def test_a_form_that_stops_arriving_is_too_slow() -> None:
    request = body_request([parts(FILE)[:50]], complete=False, headers=BOUNDED)
    form = Form(request, max_file_bytes=1000, stall_s=0)
    with pytest.raises(BodyTooSlow):
        await anext(form.files())


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/mixed; boundary=b"])
async def test_other_content_types_are_rejected(kind: str) -> None:
    with pytest.raises(UnsupportedBody):
        Form(body_request(headers={"Content-Type": kind}), max_file_bytes=1000, stall_s=600)


@pytest.mark.parametrize(
    "boundary", ["", "; boundary=", "; boundary=a@b", f"; boundary={'x' * 71}"]
)
async def test_a_boundary_that_is_missing_or_not_allowed_is_rejected(boundary: str) -> None:
    with pytest.raises(RequestError, match="boundary"):
        Form(
            body_request(headers={"Content-Type": f"multipart/form-data{boundary}"}),
            max_file_bytes=1000,
            stall_s=600,
        )
