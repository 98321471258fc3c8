"""Some names of a JSON object's members, found while its text comes by in pieces of which none is held.

A parser takes the last of two members of one name, and the first piece of a text cannot tell what the last one will
say. So whoever passes a long message on looks at all of it. A piece that mentions no name is counted through at the
speed of ``bytes``; only others are gone through quote by quote and bracket by bracket.
"""

import json
import re

_BLANKS = rb"[ \t\r\n]*+"
_TEXT = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_REST_OF_STRING = re.compile(_TEXT, re.DOTALL)
_STRING = re.compile(b'"' + _TEXT + b'"', re.DOTALL)
_TOKEN = re.compile(
    b'"(?P<text>' + _TEXT + b')(?:(?P<end>")' + _BLANKS + rb"(?P<colon>:)?+)?+|[{}\[\]]",
    re.DOTALL,
)
_LONGEST = 64
"""How long a name may be: six times a letter, where all of them are escaped."""


class MemberNames:
    """Finds members of these names in the outermost object, escaped or not, in UTF-8.

    Args:
        names: in ASCII, and none longer than ten letters.

    """

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)
        self._mentioned = re.compile("|".join([*names, r"\\u00"]).encode())  # a letter may be escaped
        self._depth = 0
        self._in_string = False  # in one that is too long to be a name
        self._cut_off = b""  # what the next piece has to tell the end of

    def feed(self, piece: bytes) -> list[str]:
        """Take the next piece; return the names that end in it."""
        piece, self._cut_off = self._cut_off + piece, b""
        at = self._behind_string(piece) if self._in_string else 0
        if self._mentioned.search(piece, at):
            return self._found(piece, at)
        self._count(piece[at:])
        return []

    def _behind_string(self, piece: bytes) -> int:
        rest = _REST_OF_STRING.match(piece)
        end = 0 if rest is None else rest.end()
        self._in_string = piece[end : end + 1] != b'"'
        if self._in_string:
            self._cut_off = piece[end:]
            return len(piece)
        return end + 1

    def _found(self, piece: bytes, at: int) -> list[str]:
        names: list[str] = []
        depth = self._depth
        for token in _TOKEN.finditer(piece, at):
            match piece[token.start()]:
                case 0x7B | 0x5B:  # { [
                    depth += 1
                case 0x7D | 0x5D:  # } ]
                    depth -= 1
                case _ if not token["end"]:
                    self._leave(piece[token.start() :])
                    break
                case _ if depth != 1 or len(token["text"]) > _LONGEST:
                    pass
                case _ if token["colon"]:
                    names.append(_unescaped(token["text"]))
                case _ if token.end() == len(piece):
                    self._cut_off = b'"%s"' % token["text"]  # a colon may follow
        self._depth = depth
        return [name for name in names if name in self._names]

    def _count(self, piece: bytes) -> None:
        outside, quote, string = _STRING.sub(b"", piece).partition(b'"')
        self._depth += sum(map(outside.count, (b"{", b"["))) - sum(map(outside.count, (b"}", b"]")))
        if quote:
            self._leave(quote + string)

    def _leave(self, string: bytes) -> None:
        """Remember a string that is not complete: all of it, or that it is one, and how its last escape begins."""
        if len(string) <= _LONGEST:
            self._cut_off = string
            return
        self._in_string = True
        self._behind_string(string[1:])


def _unescaped(name: bytes) -> str:
    text = name.decode(errors="replace")
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text  # no JSON
