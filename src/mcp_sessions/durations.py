"""How a duration is written: a number with a unit, such as ``45s``, ``30m``, ``1.5h`` or ``7d``.

Settings and the command line read it by this one grammar. ISO 8601, which settings take too, is left to pydantic.
"""

import re
from datetime import timedelta

_WRITTEN = re.compile(r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\s*", re.IGNORECASE)
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration_of(text: str, *, unit_required: bool) -> timedelta | None:
    """Return the duration that a text means, or ``None`` where it is none; a bare number means seconds, or is none.

    It may be negative. One that is longer than a ``timedelta`` can be is the longest one there is.
    """
    if not (written := _WRITTEN.fullmatch(text)) or (unit_required and not written[2]):
        return None
    number = float(written[1])
    try:
        return timedelta(**{_UNITS[written[2].lower()]: number})
    except OverflowError:
        return timedelta.min if number < 0 else timedelta.max
