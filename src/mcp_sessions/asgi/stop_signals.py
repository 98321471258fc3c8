"""The begin of a shutdown: the signal, long before the lifespan's event.

A server that is told to stop waits for the responses in flight before it says so to the app. Open streams never come to
an end by themselves, so it would wait in vain; ``sse-starlette`` therefore breaks off every event stream at the signal,
responses to tool calls among them. Whoever ends the right ones has to know of the signal as early.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

try:
    from sse_starlette.sse import AppStatus
except ImportError:  # it comes with the SDKs; other apps do without
    AppStatus = None  # type: ignore[assignment,misc]  # tested before every use

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def on_stop_signal(act: Callable[[], None]) -> Iterator[None]:
    """Run a function in the event loop at SIGTERM or SIGINT, before the server's own handler does its part.

    Event streams of ``sse-starlette`` are left to the server and its time limit from then on. Only the main thread
    may handle signals: in any other, and for a signal that nobody else handles, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if AppStatus is not None:
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # it has no annotations
    loop = asyncio.get_running_loop()
    before = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        before[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
