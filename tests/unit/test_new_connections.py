"""Refusing new connections to a socket that is about to be closed."""

import errno
import select
import socket
import sys

import pytest

from mcp_sessions.cli.serve.new_connections import refuse_new_connections


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux knows how to")
def test_newcomers_are_refused_once_it_is_closed_and_nobody_is_reset() -> None:
    """Who has connected before is accepted; who comes later waits, and is refused as soon as nobody listens."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as early,
        socket.socket() as late,
    ):
        refuse_new_connections(listener)
        late.setblocking(False)
        assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        accepted, _ = listener.accept()
        with accepted:
            early.sendall(b"first")
            assert accepted.recv(5) == b"first"
            assert select.select([listener], [late], [], 0) == ([], [], [])
            listener.close()
            assert select.select([], [late], [], 10)[1] == [late]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
