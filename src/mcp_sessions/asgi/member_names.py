"""The names of the members of a JSON object, found while its text comes by in pieces of which none is held.

A parser takes the last of two members of one name, and the first piece of a text cannot tell what the last one will
say. So whoever passes a long message on looks at all of it, at the cost of a search for quotes and brackets.
"""

import json
import re

_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_OUTERMOST = re.compile(rb'[^"{}\[\],]*+(["{}\[\],])')
_WITHIN = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+(["{}\[\]])', re.DOTALL)  # behind whole strings
_LONGEST = 64
"""How much of a name is kept: six times a letter, where all of them are escaped, and those that matter have six."""


class MemberNames:
    """Finds the names of the outermost object's members, escaped or not, in UTF-8."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._awaits_name = False
        self._name: bytes | None = None  # as far as it is known, where the string is one
        self._cut_off = b""  # a backslash at the end of a piece: of what, the next one tells

    def feed(self, piece: bytes) -> list[str]:
        """Take the next piece; return the names that end in it, a long one cut off."""
        piece, self._cut_off = self._cut_off + piece, b""
        names: list[str] = []
        at = 0
        while at < len(piece):
            at = self._string(piece, at, names) if self._in_string else self._structure(piece, at)
        return names

    def _structure(self, piece: bytes, at: int) -> int:
        sign = (_OUTERMOST if self._depth == 1 else _WITHIN).match(piece, at)
        if sign is None:
            return len(piece)
        match sign[1]:
            case b'"':
                self._in_string = True
                self._name = b"" if self._awaits_name else None
                self._awaits_name = False
            case b",":
                self._awaits_name = True
            case b"{" | b"[":
                self._depth += 1
                self._awaits_name = self._depth == 1
            case _:
                self._depth -= 1
        return sign.end()

    def _string(self, piece: bytes, at: int, names: list[str]) -> int:
        end = _REST_OF_STRING.match(piece, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if self._name is not None:
            self._name = (self._name + piece[at:end])[:_LONGEST]
        if piece[end : end + 1] == b"\\":
            self._cut_off = b"\\"
            return len(piece)
        if end < len(piece):
            self._in_string = False
            if self._name is not None:
                names.append(_unescaped(self._name))
        return end + 1


def _unescaped(name: bytes) -> str:
    text = name.decode(errors="replace")
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text  # cut off within an escape, or no JSON
