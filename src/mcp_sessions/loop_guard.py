"""Where something was opened: the event loop and the process that it belongs to.

What waits on an event loop hangs, without an error, where another loop asks for it, and a fork shares its sockets with
the parent. So whoever keeps such things asks here first. It costs two comparisons a call.
"""

import asyncio
import os
import threading

from mcp_sessions.errors import ManagerElsewhereError


class _Process:
    """A process: forked children have another one."""


_process = _Process()


def _forked() -> None:
    global _process  # noqa: PLW0603 - it is one for the process
    _process = _Process()


os.register_at_fork(after_in_child=_forked)


class LoopGuard:
    """The running event loop and this process, as they are when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = _process
        self._thread = threading.current_thread().name
        self._process_id = os.getpid()

    @property
    def is_of_this_process(self) -> bool:
        """Whether no fork lies in between."""
        return self._process is _process

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, which is the running one.

        Raises:
            ManagerElsewhereError: another event loop is running, or this is another process.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:  # so in a child that was forked by a coroutine
            running = None
        if running is not self._loop or self._process is not _process:
            raise ManagerElsewhereError(self._what_is_wrong())
        return running

    def _what_is_wrong(self) -> str:
        opened = f"this manager was opened by process {self._process_id}"
        if not self.is_of_this_process:
            return f"{opened}, and this is process {os.getpid()}: open a manager after the fork, in each process"
        return (
            f"{opened}, on an event loop of the thread {self._thread!r}, and is used on another event loop, of the "
            f"thread {threading.current_thread().name!r}: open a manager on each event loop, or have the call made on "
            "the loop that opened it (asyncio.run_coroutine_threadsafe)"
        )
