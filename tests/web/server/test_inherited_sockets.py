"""The sockets that a parent process holds for its server processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings import ServerSettings
from proxy.web.server.inherited_sockets import (
    InheritedSockets,
    SocketOwner,
    accept_waiting,
    pass_connection,
    receive_connection,
)
from tests.support.ports import free_port

HOST = "127.0.0.1"


@pytest.fixture
def owner() -> Iterator[SocketOwner]:
    """Return an owner that is closed at the end."""
    found = SocketOwner()
    yield found
    found.close()


def address(host: str = HOST, port: int = 0) -> ServerSettings:
    return ServerSettings(host=host, port=port)


async def test_each_process_has_a_socket_on_one_port(owner: SocketOwner) -> None:
    await owner.bind(address(), 2)
    first, second = owner.of(0), owner.of(1)
    assert owner.port > 0
    assert {one.getsockname()[1] for one in (*first.own, *second.own)} == {owner.port}
    assert (first.others, second.others) == (second.own, first.own)


async def test_ipv6_and_all_addresses_have_sockets_of_their_own(owner: SocketOwner) -> None:
    await owner.bind(address("::1"), 2)
    assert [one.family for one in owner.of(0).own] == [socket.AF_INET6]
    everywhere = SocketOwner()
    try:
        await everywhere.bind(address("", free_port()), 2)
        families = {one.family for one in everywhere.of(1).own}
        assert families == {socket.AF_INET, socket.AF_INET6}
    finally:
        everywhere.close()


async def test_a_port_that_another_server_listens_on_is_an_error_that_names_it(
    owner: SocketOwner,
) -> None:
    with socket.create_server((HOST, 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on {HOST}:{port}: "):
            await owner.bind(address(port=port), 2)


async def test_a_second_parent_is_refused_although_no_process_listens_yet(
    owner: SocketOwner,
) -> None:
    await owner.bind(address(), 2)
    port = owner.port
    second = SocketOwner()
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        await second.bind(address(port=port), 2)
    # After the end of the first one the address is free.
    owner.close()
    await second.bind(address(port=port), 2)
    second.close()


async def test_connections_that_wait_for_another_process_are_accepted(owner: SocketOwner) -> None:
    await owner.bind(address(), 2)
    first, second = owner.of(0), owner.of(1)
    assert accept_waiting(first.others) == []
    second.own[0].listen()
    with socket.create_connection((HOST, owner.port)):
        (accepted,) = accept_waiting(first.others)
        assert not accepted.getblocking()
        accepted.close()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_connection_arrives_with_the_bytes_that_wait_on_it(
    owner: SocketOwner, *, kept: bool
) -> None:
    await owner.bind(address(), 2)
    sockets = owner.of(1)
    assert receive_connection(sockets.arriving) is None
    client, server = socket.socketpair()
    with client:
        client.send(b"GET")
        assert pass_connection(sockets.leaving, server.fileno(), kept=kept)
        server.close()
        received = receive_connection(sockets.arriving)
        assert received is not None
        with received[0] as passed:
            assert (passed.recv(9), received[1]) == (b"GET", kept)
            assert not os.get_inheritable(passed.fileno())


async def test_a_queue_that_is_full_is_no_error(owner: SocketOwner) -> None:
    await owner.bind(address(), 2)
    leaving, other = owner.of(0).leaving, socket.socketpair()
    sent = 0
    while pass_connection(leaving, other[0].fileno(), kept=True):
        sent += 1
        assert sent < 100_000
    assert sent > 50
    for end in other:
        end.close()


async def test_a_process_gets_the_sockets_by_their_numbers(owner: SocketOwner) -> None:
    await owner.bind(address(), 2)
    sockets = owner.of(0)
    assert len(sockets.descriptors()) == len(set(sockets.descriptors())) == 4
    # Copies: the two objects would close the same descriptors.
    numbers = {
        "own": [os.dup(one.fileno()) for one in sockets.own],
        "others": [os.dup(one.fileno()) for one in sockets.others],
        "arriving": os.dup(sockets.arriving.fileno()),
        "leaving": os.dup(sockets.leaving.fileno()),
    }
    for number in (*numbers["own"], *numbers["others"]):  # type: ignore[misc]
        os.set_inheritable(number, True)  # noqa: FBT003 - the function takes no keyword
    found = InheritedSockets.of(numbers)
    assert found.own[0].getsockname() == sockets.own[0].getsockname()
    assert not any(map(os.get_inheritable, found.descriptors()))
    for one in (*found.own, *found.others, found.arriving, found.leaving):
        one.close()
