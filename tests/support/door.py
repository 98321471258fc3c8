"""The door of a Postgres: it asks everybody for the password, takes down what it is told, and lets nobody in."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

_CLEARTEXT_PASSWORD = b"R" + struct.pack(">ii", 8, 3)
_NO_ENTRY = b"SFATAL\0VFATAL\0C28P01\0Mno entry\0\0"


class Door:
    """Listens on a loopback port; ``user`` and ``password`` are those of the last connection.

    What is said there: see "Message Formats" of Postgres' frontend/backend protocol.
    """

    def __init__(self) -> None:
        self.user = self.password = ""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._answer)

    @property
    def port(self) -> int:
        """The port to knock at."""
        port: int = self._listening.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _answer(self) -> None:
        with suppress(OSError):  # the door was closed
            while True:
                connection, _ = self._listening.accept()
                with connection, connection.makefile("rb") as said:
                    (length,) = struct.unpack(">i", said.read(4))
                    names = said.read(length - 4)[4:].split(b"\0")
                    self.user = names[names.index(b"user") + 1].decode()
                    connection.sendall(_CLEARTEXT_PASSWORD)
                    _, length = struct.unpack(">ci", said.read(5))
                    self.password = said.read(length - 4).removesuffix(b"\0").decode()
                    connection.sendall(b"E" + struct.pack(">i", len(_NO_ENTRY) + 4) + _NO_ENTRY)
