"""The last moments of a listening socket, without a connection lost.

Whoever has connected when a socket is closed, and was not accepted yet, is reset, and so is a proxy that has sent the
request already: it must not send it again, and answers 502. So new connections are refused first, while those who are
connected are still accepted. The kernel then ignores the first packet of a connection; the second one comes a second
later, finds nobody listening, and the proxy goes to another server.
"""

import contextlib
import ctypes
import socket
import struct
import sys

STILL_ACCEPTING_SECONDS = 0.02
"""How long to go on accepting: for handshakes that had begun, and for the loop to take over what it has accepted."""

_SO_ATTACH_FILTER = 26  # Linux, asm-generic/socket.h; the module ``socket`` does not name it
_FLAGS_OFFSET = 13  # in the header of TCP, where a filter of a TCP socket begins to count
_SYN = 0x02
_DROP, _PASS = 0, 0xFFFFFFFF
_PROGRAM = (  # of the classic Berkeley packet filter: code, jump if true, jump if false, operand
    (0x30, 0, 0, _FLAGS_OFFSET),  # load a byte
    (0x45, 0, 1, _SYN),  # is this bit set?
    (0x06, 0, 0, _DROP),
    (0x06, 0, 0, _PASS),
)


def refuse_new_connections(listener: socket.socket) -> None:
    """Have the kernel ignore new connections to a socket in all processes that share it, where it knows how to."""
    if not sys.platform.startswith("linux"):
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _PROGRAM))
    filter_ = struct.pack("HP", len(_PROGRAM), ctypes.addressof(program))
    with contextlib.suppress(OSError):  # some sandboxes know no filters
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
