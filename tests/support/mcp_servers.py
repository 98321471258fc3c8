"""The MCP servers that the tests serve: the same tools on the official SDK and on FastMCP."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastmcp import Context as FastMCPContext
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.server.dependencies import get_http_request
from fastmcp.tools import Tool as FastMCPTool
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool as SdkTool
from mcp.server.session import ServerSession
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ListRootsRequest,
    ListRootsResult,
    LoggingLevel,
    SamplingMessage,
    TextContent,
)
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from mcp_sessions.asgi import SCOPE_KEY
from tests.support.polling import until

ISSUER = "https://issuer.example"
SCOPE = "notes"


@dataclass(frozen=True)
class Principal:
    """Whom a token belongs to."""

    client_id: str = "client-a"
    subject: str | None = "alice"
    issuer: str | None = ISSUER
    tenant: str | None = "acme"
    scopes: tuple[str, ...] = (SCOPE,)

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the token, without those that are None."""
        claims = {"iss": self.issuer, "sub": self.subject, "tenant": self.tenant}
        return {name: value for name, value in claims.items() if value is not None}


class Gate:
    """Where a tool waits, in this process, until the test has seen what it wants to see."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.passing = 0

    async def passed(self) -> None:
        """Wait for the gate to open."""
        self.passing += 1
        self.reached.set()
        await self.opened.wait()


GATES: dict[str, Gate] = {}

PRINCIPALS = {
    "alice": Principal(),
    "alice-rotated": Principal(),
    "other-tenant": Principal(tenant="globex"),
    "other-client": Principal(client_id="client-b"),
    "other-issuer": Principal(issuer="https://elsewhere.example"),
    "other-subject": Principal(subject="bob"),
    "no-tenant": Principal(tenant=None),
    "no-issuer": Principal(issuer=None),
    "no-subject": Principal(subject=None),
    "no-scope": Principal(scopes=()),
}
"""Tokens by name. All but the first two belong to somebody else than alice; the last one may do nothing."""


class TokenVerifier:
    """Knows the tokens above."""

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token stands for."""
        if (who := PRINCIPALS.get(token)) is None:
            return None
        return AccessToken(
            token=token,
            client_id=who.client_id,
            scopes=list(who.scopes),
            subject=who.subject,
            claims=who.claims,
        )


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def wait(gate: str) -> str:
    """Wait until the test opens a gate."""
    await GATES[gate].passed()
    return "waited"


async def work(folder: str) -> str:
    """Begin a piece of work, go on when the test says so, and finish it; for workers in other processes."""
    place = Path(folder)
    (place / "begun").touch()
    try:
        await until((place / "go on").exists, patience=60)
    except asyncio.CancelledError:
        (place / "stopped").touch()
        raise
    (place / "finished").touch()
    return "worked"


def note(name: str) -> str:
    """A note."""
    return f"the note {name}"


def ask(about: str) -> str:
    """A question."""
    return f"What about {about}?"


SURE = {"type": "object", "properties": {"sure": {"type": "boolean"}}}


async def confirmed(session: ServerSession, question: str, call: str | None) -> str:
    """Ask the user something, on the stream of a call or outside of it; tell what was answered to what."""
    answer = await session.elicit_form(question, SURE, call)
    return f"{answer.action}: {question}"


async def consulted(session: ServerSession, call: str | None) -> str:
    """Ask the client for its roots and its model for a word; tell both."""
    roots = await session.send_request(ListRootsRequest(), ListRootsResult)
    hello = SamplingMessage(role="user", content=TextContent(type="text", text="hello"))
    sampling = CreateMessageRequest(params=CreateMessageRequestParams(messages=[hello], max_tokens=9))
    sampled = await session.send_request(
        sampling, CreateMessageResult, metadata=ServerMessageMetadata(related_request_id=call)
    )
    return f"{roots.roots[0].uri} {getattr(sampled.content, 'text', '')}"


async def health(_request: Request) -> PlainTextResponse:
    """Something that is not MCP."""
    return PlainTextResponse("healthy")


@cache
def _sdk_tools(*, json: bool) -> list[SdkTool]:
    """The tools, made once for all apps: to read their signatures takes longer than most tests."""

    def session_digest(ctx: Context) -> str:
        """The digest of the durable session."""
        request: Any = ctx.request_context.request
        return str(request.scope[SCOPE_KEY].digest.hex())

    async def count(ctx: Context, to: int) -> int:
        """Count, and report each step."""
        for step in range(to):
            await ctx.report_progress(step, to)
        return to

    async def announce(ctx: Context) -> str:
        """Tell the client, on no request's stream, that there are other resources."""
        await ctx.session.send_resource_list_changed()
        return "announced"

    async def log(ctx: Context, level: LoggingLevel, text: str) -> str:
        """Tell the client something, on this call's stream."""
        await ctx.session.send_log_message(level, text, related_request_id=ctx.request_id)
        return "logged"

    async def confirm(ctx: Context, question: str) -> str:
        """Ask the user; a JSON answer has no room for a question, so that goes to the standalone stream."""
        return await confirmed(ctx.session, question, None if json else ctx.request_id)

    async def consult(ctx: Context) -> str:
        """Ask the client, in the same way."""
        return await consulted(ctx.session, None if json else ctx.request_id)

    tools = (add, wait, work, session_digest, count, announce, log, confirm, consult)
    return [SdkTool.from_function(tool) for tool in tools]


def sdk_app(*, json: bool, auth: bool = False, **options: Any) -> Starlette:
    """An app of the official SDK."""
    settings: dict[str, Any] = {
        "token_verifier": TokenVerifier(),
        "auth": AuthSettings(
            issuer_url=AnyHttpUrl(ISSUER),
            resource_server_url=AnyHttpUrl("https://notes.example/mcp"),
            required_scopes=[SCOPE],
            validate_token_resource=False,
        ),
    }
    server = MCPServer("notes", log_level="WARNING", tools=_sdk_tools(json=json), **(settings if auth else {}))
    server.resource("note://{name}")(note)
    server.prompt()(ask)
    server.custom_route("/health", methods=["GET", "POST"])(health)
    return server.streamable_http_app(json_response=json, **options)


@cache
def _fastmcp_tools(*, json: bool) -> list[FastMCPTool]:
    """The same tools of FastMCP."""

    def session_digest() -> str:
        """The digest of the durable session."""
        return str(get_http_request().scope[SCOPE_KEY].digest.hex())

    async def count(ctx: FastMCPContext, to: int) -> int:
        """Count, and report each step."""
        for step in range(to):
            await ctx.report_progress(step, to)
        return to

    async def announce(ctx: FastMCPContext) -> str:
        """Tell the client, on no request's stream, that there are other resources."""
        await ctx.session.send_resource_list_changed()
        return "announced"

    async def log(ctx: FastMCPContext, level: LoggingLevel, text: str) -> str:
        """Tell the client something, on this call's stream, unless its level is too low."""
        await ctx.log(text, level)
        return "logged"

    async def confirm(ctx: FastMCPContext, question: str) -> str:
        """Ask the user; a JSON answer has no room for a question, so that goes to the standalone stream."""
        return await confirmed(ctx.session, question, None if json else ctx.request_id)

    async def consult(ctx: FastMCPContext) -> str:
        """Ask the client, in the same way."""
        return await consulted(ctx.session, None if json else ctx.request_id)

    tools = (add, wait, work, session_digest, count, announce, log, confirm, consult)
    return [FastMCPTool.from_function(tool) for tool in tools]


def fastmcp_app(*, json: bool, auth: bool = False, **options: Any) -> Starlette:
    """An app of FastMCP."""
    tokens = {
        token: {"client_id": who.client_id, "scopes": list(who.scopes), **who.claims}
        for token, who in PRINCIPALS.items()
    }
    server: FastMCP[Any] = FastMCP("notes", auth=StaticTokenVerifier(tokens, required_scopes=[SCOPE]) if auth else None)
    for tool in _fastmcp_tools(json=json):
        server.add_tool(tool)
    server.resource("note://{name}")(note)
    server.prompt(ask)
    server.custom_route("/health", methods=["GET", "POST"])(health)
    return server.http_app(json_response=json, **options)


APPS: dict[str, Callable[..., Starlette]] = {
    "sdk-json": partial(sdk_app, json=True),
    "sdk-sse": partial(sdk_app, json=False),
    "fastmcp-json": partial(fastmcp_app, json=True),
    "fastmcp-sse": partial(fastmcp_app, json=False),
}
