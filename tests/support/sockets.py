"""An HTTP client on real sockets, as exact as the one in ``asgi``: any header bytes, any moment to hang up.

Connections are kept alive and used again, as a client's library does; one that the server cuts before the answer is
complete raises ``ConnectionCutError``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import h11

from tests.support.asgi import Headers, Response, is_whole, messages_of

_PATIENCE = 30.0
_CHUNK = 65536


class ConnectionCutError(Exception):
    """The server closed the connection, or took none, before its answer was complete."""


class Connection:
    """One connection to a worker, which takes one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._state = h11.Connection(h11.CLIENT)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.requests = 0

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> None:
        """Send a request with exactly these headers, and a length."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            # What h11 would write is not sent: it refuses to write what no client should. It has to know, though.
            self._state.send(h11.Request(method=method, target=path, headers=[("Host", "x"), ("Content-Length", "0")]))
            self._state.send(h11.EndOfMessage())
            self._streams[1].write(_request(method, path, self._port, headers, body))
            await self._streams[1].drain()
        except OSError as error:
            raise ConnectionCutError from error
        self.requests += 1

    async def event(self) -> h11.Event:
        """Return the next part of the answer."""
        assert self._streams is not None
        try:
            while (event := self._state.next_event()) is h11.NEED_DATA:
                self._state.receive_data(await self._streams[0].read(_CHUNK))
        except (OSError, h11.RemoteProtocolError) as error:
            raise ConnectionCutError from error
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise ConnectionCutError
        return event

    def is_reusable(self) -> bool:
        """Whether another request may be sent, and make it so."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        return True

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed it."""
        return self._streams is not None and self._streams[0].at_eof()

    def drop(self) -> None:
        """Hang up and wait for nothing."""
        if self._streams is not None:
            self._streams[1].close()

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self.drop()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()


class SocketExchange:
    """One request under way."""

    def __init__(self, browser: "SocketBrowser", method: str, path: str, headers: Headers, body: bytes) -> None:
        self._started: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._body = bytearray()
        self._task = asyncio.create_task(self._run(browser, method, path, headers, body))

    async def _run(self, browser: "SocketBrowser", method: str, path: str, headers: Headers, body: bytes) -> None:
        connection = browser.take()
        try:
            await connection.send(method, path, headers, body)
            while not isinstance(event := await connection.event(), h11.EndOfMessage):
                if isinstance(event, h11.Response):
                    self._started.set_result((event.status_code, list(event.headers)))
                elif isinstance(event, h11.Data):
                    self._body += event.data
        except BaseException:
            if not self._started.done():
                self._started.set_exception(ConnectionCutError())
                self._started.exception()  # whoever hung up does not ask
            await connection.close()
            raise
        if connection.is_reusable():
            browser.give_back(connection)
        else:
            await connection.close()

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, or broken off."""
        return self._task.done()

    async def started(self) -> int:
        """Wait for the status."""
        async with asyncio.timeout(_PATIENCE):
            return (await asyncio.shield(self._started))[0]

    async def received(self, part: bytes) -> None:
        """Wait until the body contains this."""
        async with asyncio.timeout(_PATIENCE):
            while part not in self._body:
                assert not self.ended, bytes(self._body)
                await asyncio.sleep(0.005)

    async def asked(self, method: str) -> list[dict[str, Any]]:
        """Wait for an event with a request of the server's, and return all of them."""
        await self.received(method.encode())
        async with asyncio.timeout(_PATIENCE):
            while not is_whole(self._body):  # noqa: ASYNC110 - as in ``received``
                await asyncio.sleep(0.005)
        return messages_of(self._body, method)

    async def response(self) -> Response:
        """Wait for the end of the answer.

        Raises:
            ConnectionCutError: it broke off.

        """
        async with asyncio.timeout(_PATIENCE):
            await asyncio.shield(self._task)
        return Response(*self._started.result(), bytes(self._body))

    async def hang_up(self) -> None:
        """Close the connection at once."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # it had ended by itself

    async def app_returned(self) -> None:
        """Nothing to wait for: what an app does after its answer is not to be seen from outside."""


class SocketBrowser:
    """Sends requests to one worker."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self._under_way: set[SocketExchange] = set()

    def begin(self, method: str, path: str = "/mcp", *, headers: Headers = (), body: bytes = b"") -> SocketExchange:
        """Send a request."""
        self._under_way = {each for each in self._under_way if not each.ended}
        exchange = SocketExchange(self, method, path, headers, body)
        self._under_way.add(exchange)
        return exchange

    async def request(self, method: str, path: str = "/mcp", *, headers: Headers = (), body: bytes = b"") -> Response:
        """Send a request and wait for the whole answer."""
        return await self.begin(method, path, headers=headers, body=body).response()

    def take(self) -> Connection:
        """Return a connection that is idle and that the server has not closed meanwhile, or a new one."""
        while self._idle:
            if not (connection := self._idle.pop()).is_closed:
                return connection
            connection.drop()
        return Connection(self._port)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self._idle.append(connection)

    @property
    def idle(self) -> list[Connection]:
        """The connections that are kept alive."""
        return self._idle

    async def close(self) -> None:
        """Hang up."""
        for exchange in self._under_way:
            await exchange.hang_up()
        while self._idle:
            await self._idle.pop().close()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[SocketBrowser]:
    """A client of the worker on that port."""
    browser = SocketBrowser(port)
    try:
        yield browser
    finally:
        await browser.close()


def _request(method: str, path: str, port: int, headers: Headers, body: bytes) -> bytes:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: 127.0.0.1:%d" % port, b"Content-Length: %d" % len(body)]
    lines += [name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()) for name, value in pairs]
    return b"\r\n".join([*lines, b"", body])
