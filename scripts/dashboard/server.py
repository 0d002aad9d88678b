"""The dashboard as a server: Starlette and uvicorn, behind ADMIN_PASSWORD.

A login with the password sets a signed cookie; without it a request gets no row. The signing key is
in the memory of this process, so a login ends after twelve hours, at a logout, and with the
process.
"""

import hmac
import json
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import typer
import uvicorn
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from scripts.common.database import COULD_NOT_DO, database, give_up
from scripts.dashboard.data import read, verification
from scripts.dashboard.page import render

HOURS = 12
LONGEST_PASSWORD = 1000
TRIES = RateLimitItemPerMinute(10)
"""Logins in a minute, of all clients together: behind a proxy they share an address."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_TLS = (
    "warning: {host} is not this machine alone, and http does not hide the password: put a proxy with TLS "
    "in front"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Dashboard:
    """The routes, and the valid login."""

    def __init__(self, url: str | None, password: str) -> None:
        self.url = url
        self.password = password.encode()
        self.login_id = (
            secrets.token_urlsafe()
        )  # a logout creates another key, so earlier cookies are invalid
        self.limiter = FixedWindowRateLimiter(MemoryStorage())

    def app(self, hosts: list[str]) -> Starlette:
        """Return the application; ``hosts``: host names that a request may use."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/login", self.login, methods=["POST"]),
                Route("/logout", self.logout, methods=["POST"]),
                Route("/data", self.data),
                Route("/verification", self.verification),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                Middleware(
                    SessionMiddleware,
                    secret_key=secrets.token_urlsafe(),
                    session_cookie="workshop_dashboard",
                    max_age=HOURS * 3600,
                    same_site="strict",
                ),
            ],
        )

    def logged_in(self, request: Request) -> bool:
        """Return whether the cookie belongs to the valid login."""
        return bool(request.session.get("login") == self.login_id)

    async def page(self, request: Request) -> Response:
        """Answer with the page, without any data."""
        page, policy = render("null", "live", logged_in=self.logged_in(request))
        policy = f"{policy}; frame-ancestors 'none'"
        return HTMLResponse(page, headers={**HEADERS, "Content-Security-Policy": policy})

    async def login(self, request: Request) -> Response:
        """Compare the body with the password, as UTF-8; set the cookie."""
        if not _of_this_page(request):
            return _refusal(403, "This request came from another page.")
        if not self.limiter.hit(TRIES, "login"):
            return _refusal(429, "Too many logins: wait a minute.")
        given = b""
        async for part in request.stream():
            given += part
            if len(given) > LONGEST_PASSWORD:
                break
        if not hmac.compare_digest(given, self.password):
            return _refusal(401, "Wrong password.")
        request.session["login"] = self.login_id
        return JSONResponse({}, headers=HEADERS)

    async def logout(self, request: Request) -> Response:
        """End every login, on other machines too."""
        if not _of_this_page(request):
            return _refusal(403, "This request came from another page.")
        if self.logged_in(request):
            self.login_id = secrets.token_urlsafe()
        request.session.clear()
        return JSONResponse({}, headers=HEADERS)

    async def data(self, request: Request) -> Response:
        """Answer with the page's data, from the present state of the database."""
        return await self._answer(request, lambda: read(self.url, verified=False)[0])

    async def verification(self, request: Request) -> Response:
        """Answer with the checks of ``workshop verify``."""

        def verify() -> str:
            with database(self.url, "AUTOCOMMIT") as connection:
                return json.dumps(verification(connection))

        return await self._answer(request, verify)

    async def _answer(self, request: Request, read_json: Callable[[], str]) -> Response:
        if not self.logged_in(request):
            return _refusal(401, "Log in first.")
        try:
            text = await run_in_threadpool(read_json)
        except typer.Exit:  # the reason may name the server, so only the terminal shows it
            return _refusal(503, "The database could not be read; the terminal shows the reason.")
        return Response(text, media_type="application/json", headers=HEADERS)


def _refusal(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status_code=status, headers=HEADERS)


def _of_this_page(request: Request) -> bool:
    """Return False if the browser reports a request of another site."""
    origin = request.headers.get("origin")
    return origin is None or origin.split("://")[-1] == request.headers.get("host")


def serve(url: str | None, host: str, port: int) -> None:
    """Serve until interrupted. Without a password, or if the port is taken: exit code 2."""
    password = os.environ.get("ADMIN_PASSWORD", "")
    if not password:
        advice = "Nothing is served; set the environment variable ADMIN_PASSWORD"
        give_up("--serve needs a password", advice, COULD_NOT_DO)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        give_up(reason, "Nothing is served; name another --host or --port", COULD_NOT_DO)
    local = host in LOOPBACK
    if not local:
        typer.echo(NO_TLS.format(host=host), err=True)
    # on a local address, another host name in a request is an attack by DNS rebinding
    hosts = [*LOOPBACK, "[::1]"] if local else ["*"]
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{shown}:{listening.getsockname()[1]}/   (Ctrl-C stops it)")
    config = uvicorn.Config(
        Dashboard(url, password).app(hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
