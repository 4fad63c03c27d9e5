"""Who may ask: the host that is asked, the site that asks, the token; and what answers tell browsers."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_TOKEN = 16
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that no one else can give to theirs."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may use a service.

    Args:
        token: needed by every request; None for a service on this machine alone.
        hosts: names under which it is reached; None for any, which only a token makes safe.
    """

    token: str | None = None
    hosts: frozenset[str] | None = LOCAL

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ValueError(f"the token has {len(self.token)} characters: give at least {MIN_TOKEN}")
        if self.token is None and self.hosts is None:
            raise ValueError("a service for other machines needs a token")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def access_for(host: str, token: str | None) -> Access:
    """Return who may use a service at a host; if other machines reach it and there is no token, make one.

    Raises:
        ValueError: the token is too short.
    """
    if is_loopback(host):
        return Access(token, LOCAL | {host})
    return Access(token or secrets.token_urlsafe(24), None)


class Guard:
    """Refuses requests that are not allowed, and adds headers to all answers.

    A page of another site must neither use nor read the service that runs on its visitor's machine: requests
    for another host (a name that was rebound to this machine), and requests to /api that a browser marks as
    those of another site, are refused.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                static = scope["path"].startswith("/static/")
                headers.setdefault("Cache-Control", "no-cache" if static else "no-store")
            await send(message)

        answer = self._refusal(scope) or self._entrance(scope)
        await (answer or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._access.hosts is not None and _name(host) not in self._access.hosts:
            return _line(400, f"host {host!r:.80}: ask for one of {', '.join(sorted(self._access.hosts))}")
        changes = scope["method"] not in SAFE_METHODS
        if changes or scope["path"].startswith("/api/"):
            site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
            foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
            if site not in ("same-origin", "none") or foreign:
                return _line(403, "a page of another site asks: open this service's own page")
        return None

    def _entrance(self, scope: Scope) -> Response | None:
        """Return the answer to a request with the token in its address, or without a valid one."""
        token = self._access.token
        if token is None:
            return None
        headers = Headers(scope=scope)
        queried = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _equal(queried, token):
            response = RedirectResponse("/", 303)
            response.set_cookie(_cookie_of(token), token, httponly=True, samesite="strict")
            return response
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(bearer.strip(), token):
            return None
        cookies = cookie_parser(headers.get("cookie", ""))
        if _equal(cookies.get(_cookie_of(token), ""), token):
            return None
        text = "give the token: open the address that `refusion serve` printed, or send Authorization: Bearer"
        return _line(401, text, {"WWW-Authenticate": "Bearer"})


def _line(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": text}, status, headers)


def _cookie_of(token: str) -> str:
    """Return the name of the cookie. Browsers send to all ports of a host the cookies of all its services."""
    return f"refusion-{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
