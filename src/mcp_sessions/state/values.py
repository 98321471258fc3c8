"""What can be stored: names, and JSON values, held strictly to what comes back as it was given.

Python's own encoder takes more than JSON has (NaN, keys that are no text) and changes it without a word; it takes text
that no database stores, and goes as deep as its stack allows. All of that is refused here, before anything is read
or written.
"""

import json
import math
import re
from typing import Any

from mcp_sessions.errors import InvalidInputError
from mcp_sessions.validation import STATE_NAME_MAX_LENGTH

MAX_DEPTH = 64
"""How deep arrays and objects may stand in one another."""

_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def checked_name(name: object) -> str:
    """Return the name of an entry if it can be one.

    Raises:
        InvalidInputError: it is not text of 1 to 256 characters, or holds a control character or a lone surrogate.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"the name of an entry must be text, not {type(name).__name__}")
    if not 1 <= len(name) <= STATE_NAME_MAX_LENGTH:
        raise InvalidInputError(
            f"the name of an entry must have 1 to {STATE_NAME_MAX_LENGTH} characters, not {len(name)}"
        )
    if bad := _NOT_IN_NAMES.search(name):
        raise InvalidInputError(
            f"the name of an entry must not hold U+{ord(bad.group()):04X}, at position {bad.start()}"
        )
    return name


def json_of(value: object, *, most: int) -> str | None:
    """Return a value as JSON text; None where that has more than ``most`` bytes in UTF-8.

    Raises:
        InvalidInputError: it is no JSON value; the message says what in it is not.
    """
    if not _fits(value, most):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # a whole number of thousands of digits, which Python does not write
        raise InvalidInputError(f"a value must be JSON, and this is not: {error}") from error
    return text if len(text.encode()) <= most else None


def value_of(text: str) -> Any:
    """Return the value that a JSON text stands for."""
    return json.loads(text)


def _fits(value: object, most: int) -> bool:
    """Check every part of a value; False once there are more of them than ``most``, each of which takes a byte."""
    left: list[tuple[object, int]] = [(value, 1)]
    parts = 0
    while left:
        part, depth = left.pop()
        parts += 1
        inner = _inside(part)
        if depth > MAX_DEPTH and isinstance(part, dict | list):
            raise InvalidInputError(f"a value must not be deeper than {MAX_DEPTH} arrays and objects in one another")
        if parts + len(inner) > most:
            return False
        left += [(each, depth + 1) for each in inner]
    return True


def _inside(part: object) -> list[object]:
    """Return what stands inside one part of a value, which is JSON itself."""
    if isinstance(part, dict):
        for key in part:
            if not isinstance(key, str):
                raise InvalidInputError(f"a value must be JSON, whose keys are text, not {type(key).__name__}")
        return [*part.keys(), *part.values()]
    if isinstance(part, list):
        return part
    if isinstance(part, str):
        if bad := _LONE_SURROGATE.search(part):
            raise InvalidInputError(f"a value must not hold the lone surrogate U+{ord(bad.group()):04X}")
    elif isinstance(part, float):
        if not math.isfinite(part):
            raise InvalidInputError(f"a value must be JSON, which has no {part}")
    elif not (part is None or isinstance(part, int)):
        raise InvalidInputError(
            "a value must be JSON: None, a bool, a number, text, a list or a dict of these, "
            f"and no {type(part).__name__} in it"
        )
    return []
