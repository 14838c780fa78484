"""
Check Host and Origin of every request before the receiver does anything with it.

A website opened in a browser on this machine can send requests to the server. They are recognised by their Host (DNS
rebinding) or by their Origin. Host is checked on every route, Origin on every route that writes.
"""

import ipaddress
import json
import re
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from opslib.foundation import formatting
from opslib.telemetry.pages.refused_posts import Refusals

_HOST = re.compile(r"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\])(?::\d{0,5})?")
READING = ("GET", "HEAD", "OPTIONS")


class Problem(Exception):
    """
    A rejected request, as problem details of RFC 9457.

    Args:
        status: The HTTP status.
        title: The reason in a few words; rejected posts are counted by it.
        detail: What was expected, and what to do.
        headers: Additional response headers.
        more: Additional fields of the body.
    """

    def __init__(
        self, status: int, title: str, detail: str, headers: MutableMapping[str, str] | None = None, **more: Any
    ):
        self.status, self.title, self.detail, self.headers, self.more = status, title, detail, headers or {}, more

    def answer(self, headers: MutableMapping[str, str] | None = None) -> Response:
        """Return the response, with the given CORS headers."""
        content = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail} | self.more
        return Response(
            json.dumps(content),
            self.status,
            {**(headers or {}), **self.headers, "x-content-type-options": "nosniff"},
            "application/problem+json",
        )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return None
    return (found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found


def sender(scope: Scope, origins: list[str]) -> str:
    """Describe the sender of a request: the origin of its page, or the address of a program."""
    return ", ".join(origins) if origins else f"a program at {(scope.get('client') or ('an unknown address',))[0]}"


class RequestChecks:
    """
    ASGI middleware that rejects requests by Host and Origin.

    Args:
        app: The application to call if the request is accepted.
        origins: Origins whose pages may write, in lower case.
        hosts: Names accepted in Host, in lower case, besides loopback names and the local address of the connection.
        refusals: Counts rejected requests.
    """

    def __init__(self, app: ASGIApp, origins: frozenset[str], hosts: Iterable[str], refusals: Refusals):
        self._app, self._origins, self._refusals = app, origins, refusals
        names = frozenset(name.strip("[]") for name in hosts) | {"localhost"}

        @lru_cache(256)
        def allowed(host: bytes, local: str) -> bool | None:
            found = _HOST.fullmatch(host.decode("latin-1"))
            if not found:
                return None
            name = (found[1] or found[2]).lower().removesuffix(".")
            address = _address(name)
            return name in names or (address is not None and (address.is_loopback or address == _address(local)))

        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] == "http":
            hosts, origins, site = [], [], b""
            for name, value in scope["headers"]:
                if name == b"host":
                    hosts.append(value)
                elif name == b"origin":
                    origins.append(value.decode("latin-1"))
                elif name == b"sec-fetch-site":
                    site = value
            problem = self._of_host(hosts, (scope.get("server") or ("",))[0]) or self._of_origin(
                scope["method"], origins, site
            )
            if problem is not None:
                self._refusals.count(problem.status, problem.title, sender(scope, origins))
                await problem.answer()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _of_host(self, hosts: list[bytes], local: str) -> Problem | None:
        allowed = self._allowed(hosts[0], local) if len(hosts) == 1 else None
        if allowed:
            return None
        if allowed is None:
            return Problem(
                400,
                "Missing or invalid Host header",
                "expected one Host header with the name and port of this server, such as 127.0.0.1:8321",
            )
        name = formatting.single_line(hosts[0].decode("latin-1"), 80)
        return Problem(
            421,
            f"Host {name} not in OPS_ALLOWED_HOSTS",
            f"this server does not accept the host name {name}. Use 127.0.0.1 or localhost, or add the name without "
            f"port to OPS_ALLOWED_HOSTS.",
        )

    def _of_origin(self, method: str, origins: list[str], site: bytes) -> Problem | None:
        if method in READING:
            return None
        if bad := next((o for o in origins if not may_write(o, self._origins)), None):
            return not_configured(bad)
        if not origins and site in (b"cross-site", b"same-site"):
            return Problem(
                403,
                "Cross-site request without Origin",
                "a browser sent this request for another site, without an Origin header; only pages of the origins in "
                "OPS_CORS_ORIGINS may post",
            )
        return None


def may_write(origin: str, origins: frozenset[str]) -> bool:
    """Return whether pages of an origin may write; the allowed origins are in lower case."""
    return origin.lower().rstrip("/") in origins


def not_configured(origin: str) -> Problem:
    """Return the problem for a page whose origin is not configured."""
    return Problem(
        403,
        "Origin not in OPS_CORS_ORIGINS",
        f"{formatting.single_line(origin, 100)} is not in OPS_CORS_ORIGINS. If this is your page, add its origin and "
        f"restart ops serve.",
    )
