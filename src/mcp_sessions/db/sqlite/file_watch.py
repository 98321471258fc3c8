"""The file of SQLite, watched: whether it is still the one that was opened.

A file that is deleted or replaced lives on for whoever has it open: they would go on reading from it and writing to
it, and nothing of that would be there for anybody else. The same goes for its companions, ``-wal`` and ``-shm``, where
the last commits and the locks are. So after each transaction, and before it is acknowledged, this looks whether the
files at their places are those that were opened: three calls of ``stat``, which a hot read would feel, so that those
look a hundred times a second at most. Once they are not, nothing is read or acknowledged any more until a manager is
opened anew, which checks what it finds there.
"""

import os
import time
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event

FileId = tuple[int, int]

_LOOK_SECONDS = 0.01
_COMPANIONS = "mcp-sessions companions"
"""Where a connection keeps which companions it opened: they last only as long as somebody has them open."""


class FileWatch:
    """Notices that the file of a database, or a companion that a connection has opened, was deleted or replaced."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        real = os.path.realpath(file)  # the companions are beside the file itself, not beside a link to it
        self._companions = f"{real}-wal", f"{real}-shm"
        self._meant = _id_of(self._file)
        self._fault: str | None = None
        self._next_look = 0.0

    def attach(self, engine: Engine) -> None:
        """Watch what the connections of this engine open, and check at the end of each of their transactions."""
        event.listen(engine, "do_connect", self._before_opening)
        event.listen(engine, "connect", self._after_opening)
        event.listen(engine, "commit", self.check)

    def check(self, connection: Connection) -> None:
        """Make sure that what a connection has open is what others find.

        Raises:
            FileNotFoundError: it was deleted or replaced; what was just done may be seen by nobody.
        """
        self._check_opened(connection.info)

    def check_read(self, info: dict[Any, Any]) -> None:
        """Check like ``check`` after a hot read, by the connection's ``info``, unless that was done just now."""
        if self._fault is not None or time.monotonic() >= self._next_look:
            self._check_opened(info)
            self._next_look = time.monotonic() + _LOOK_SECONDS

    def _check_opened(self, info: dict[Any, Any]) -> None:
        self._check_file()
        for name, opened in zip(self._companions, info.get(_COMPANIONS, ()), strict=False):
            if opened is not None and (found := _id_of(name)) != opened:
                self._fail(name, found)

    def _check_file(self) -> None:
        if self._fault is not None:
            raise FileNotFoundError(self._fault)
        if (found := _id_of(self._file)) is None or found != self._meant:
            self._fail(self._file, found)

    def _fail(self, name: str, found: FileId | None) -> NoReturn:
        what = "deleted" if found is None else "replaced by another file"
        self._fault = (
            f"{Path(name).name} was {what} while it was in use; nothing is read or written any more until this "
            "process is started again"
        )
        raise FileNotFoundError(self._fault)

    def _before_opening(self, *_: object) -> None:
        self._check_file()

    def _after_opening(self, _connection: object, record: Any) -> None:
        record.info[_COMPANIONS] = [_id_of(name) for name in self._companions]


def _id_of(name: str) -> FileId | None:
    """Return which file has this name; None where there is none that can be reached."""
    try:
        found = os.stat(name)  # noqa: PTH116 - a third of the time that Path takes
    except OSError:
        return None
    return found.st_dev, found.st_ino
