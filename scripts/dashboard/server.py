"""The dashboard served live: Starlette and uvicorn, behind ADMIN_PASSWORD.

Nobody sees a row without a session cookie, which a login with the password gives. Sessions are
random tokens in this process's memory: they end after twelve hours, at logout, and with the process.
"""

import hmac
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import typer
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from scripts.common.database import COULD_NOT_DO, database, give_up
from scripts.dashboard.data import read, verification
from scripts.dashboard.page import render

NO_PASSWORD = "Nothing is served; set the environment variable ADMIN_PASSWORD"
COOKIE = "workshop_dashboard"
HOURS = 12
LONGEST_PASSWORD = 1000
FREE_TRIES = 5
LONGEST_WAIT = 60.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Throttle:
    """Wrong passwords cost time: five are free, then each doubles the wait, to a minute at most.

    For all clients together: on one machine they share an address. Whoever is logged in stays so.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.wrong = 0
        self.until = 0.0

    def wait(self) -> float:
        """Seconds until the next try is looked at."""
        return max(0.0, self.until - self.clock())

    def failed(self) -> None:
        """Count a wrong password."""
        self.wrong += 1
        if self.wrong >= FREE_TRIES:
            self.until = self.clock() + min(2.0 ** (self.wrong - FREE_TRIES), LONGEST_WAIT)

    def passed(self) -> None:
        """Forget them."""
        self.wrong, self.until = 0, 0.0


class Dashboard:
    """The routes, and who is logged in."""

    def __init__(self, url: str | None, password: str) -> None:
        self.url = url
        self.password = password.encode()
        self.sessions: dict[str, float] = {}
        self.throttle = Throttle()

    def app(self, hosts: list[str]) -> Starlette:
        """The application; ``hosts``: what a request may call this server."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/login", self.login, methods=["POST"]),
                Route("/logout", self.logout, methods=["POST"]),
                Route("/data", self.data),
                Route("/verification", self.verification),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        )

    def logged_in(self, request: Request) -> bool:
        """True with a cookie of a session that has not ended."""
        now = time.monotonic()
        self.sessions = {token: end for token, end in self.sessions.items() if end > now}
        return request.cookies.get(COOKIE, "") in self.sessions

    async def page(self, request: Request) -> Response:
        """The page without any data."""
        page, policy = render("null", "live", logged_in=self.logged_in(request))
        policy = f"{policy}; frame-ancestors 'none'"
        return HTMLResponse(page, headers={**HEADERS, "Content-Security-Policy": policy})

    async def login(self, request: Request) -> Response:
        """The body is the password, as UTF-8; the answer sets the cookie."""
        if not _of_this_page(request):
            return _refusal(403, "This request came from another page.")
        given = b""
        async for part in request.stream():
            given += part
            if len(given) > LONGEST_PASSWORD:
                break
        # from here on nothing is awaited: many tries at once count one after the other
        if wait := self.throttle.wait():
            refusal = _refusal(429, f"Too many wrong passwords: wait {wait + 0.5:.0f} s.")
            refusal.headers["Retry-After"] = f"{wait + 1:.0f}"
            return refusal
        if not hmac.compare_digest(given, self.password):
            self.throttle.failed()
            return _refusal(401, "Wrong password.")
        self.throttle.passed()
        token = secrets.token_urlsafe(32)
        self.sessions[token] = time.monotonic() + HOURS * 3600
        answer = JSONResponse({}, headers=HEADERS)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session of the cookie."""
        if not _of_this_page(request):
            return _refusal(403, "This request came from another page.")
        self.sessions.pop(request.cookies.get(COOKIE, ""), None)
        answer = JSONResponse({}, headers=HEADERS)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    async def data(self, request: Request) -> Response:
        """Everything that the page shows, from the database as it is."""
        return await self._answer(request, lambda: read(self.url, verified=False)[0])

    async def verification(self, request: Request) -> Response:
        """The checks of scripts.verify."""

        def verify() -> str:
            with database(self.url, "AUTOCOMMIT") as connection:
                return json.dumps(verification(connection))

        return await self._answer(request, verify)

    async def _answer(self, request: Request, read_json: Callable[[], str]) -> Response:
        if not self.logged_in(request):
            return _refusal(401, "Log in first.")
        try:
            text = await run_in_threadpool(read_json)
        except typer.Exit:  # said on the terminal, where it may name the server
            return _refusal(503, "The database could not be read; the terminal says why.")
        return Response(text, media_type="application/json", headers=HEADERS)


def _refusal(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status_code=status, headers=HEADERS)


def _of_this_page(request: Request) -> bool:
    """False where a browser says that another site sends this."""
    origin = request.headers.get("origin")
    return origin is None or origin.split("://")[-1] == request.headers.get("host")


def serve(url: str | None, host: str, port: int) -> None:
    """Serve until interrupted. Without a password, or where the port is taken: exit code 2."""
    password = os.environ.get("ADMIN_PASSWORD", "")
    if not password:
        give_up("--serve needs a password", NO_PASSWORD, COULD_NOT_DO)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        give_up(reason, "Nothing is served; name another --host or --port", COULD_NOT_DO)
    local = host in LOOPBACK
    if not local:
        typer.echo(
            f"warning: {host} is not this machine alone, and http does not hide the password: put a "
            "proxy with TLS in front",
            err=True,
        )
    # a name that somebody else's DNS points here is none of ours
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
