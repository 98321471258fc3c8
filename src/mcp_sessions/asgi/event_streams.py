"""Event streams as bytes: where an event ends, the data in it, and the same event with other data.

A stream comes in pieces that know nothing of events, and its lines end in LF, CR or CRLF, also mixed. All but the
data of an event stays as it is, to the byte (WHATWG HTML, Server-sent events, Interpreting an event stream).
"""

import re
from collections.abc import Iterator

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r){2}")  # atomic: CRLF is one end of a line, never two
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_END = 4

END_OF_EVENT = (b"\n\n", b"\r\n\r\n", b"\r\r")
"""What an event usually ends with."""


class EventSplitter:
    """Puts the pieces of a stream together to events.

    Attributes:
        rest: what has come of the event that is not complete yet.

    """

    def __init__(self) -> None:
        self.rest = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take the next piece; return each event that is complete by it, with the blank line that ends it.

        Where CRLF is torn apart, its LF begins the next event: an empty line more, which means nothing.
        """
        self.rest += piece
        while end := _BLANK_LINE.search(self.rest, self._searched):
            event = bytes(self.rest[: end.end()])
            self._drop(end.end())
            yield event
        self._searched = max(len(self.rest) - _LONGEST_END + 1, 0)

    def take(self, *, everything: bool = False) -> bytes:
        """Return what has come of an event that is not complete, but for bytes in which its end may have begun."""
        taken = bytes(self.rest if everything else self.rest[: self._searched])
        self._drop(len(taken))
        return taken

    def _drop(self, count: int) -> None:
        del self.rest[:count]
        self._searched = 0


def data_in(event: bytes) -> bytes | None:
    """Return the data of an event, or of as much of it as has come; None where it has none."""
    lines = [data for line, _ in _lines(event) if (data := _data(line)) is not None]
    return b"\n".join(lines) if lines else None


def with_data(event: bytes, data: bytes) -> bytes:
    """Return the event with this data, one line of text, instead of its own."""
    parts: list[bytes] = []
    is_written = False
    for line, end in _lines(event):
        if _data(line) is None:
            parts += (line, end)
        elif not is_written:
            parts += (b"data: ", data, end)
            is_written = True
    return b"".join(parts)


def _lines(event: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in _LINE.finditer(event.removeprefix(_BYTE_ORDER_MARK)):
        yield line[1], line[2]


def _data(line: bytes) -> bytes | None:
    if line == b"data":
        return b""
    return line.removeprefix(b"data:").removeprefix(b" ") if line.startswith(b"data:") else None
