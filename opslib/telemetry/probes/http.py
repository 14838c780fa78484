"""
Send one HTTP probe with timeouts, retries, quotas and size limits, and classify its response.

Every attempt opens a new connection, so that name resolution, route and certificate are tested each time. Redirects are
not followed, since our API key would be sent too. Secrets are removed from exceptions and response texts.
"""

import asyncio
import errno
import functools
import json
import random
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from opslib.foundation import clock, formatting
from opslib.foundation.config.settings import Settings
from opslib.foundation.network import _under, tls_context, tls_failure
from opslib.foundation.version import VERSION
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

if TYPE_CHECKING:
    import httpx


ATTEMPT_S, PROBE_S = 4.0, 9.0  # Timeouts of one attempt, and of a probe with all its attempts.
ATTEMPTS, BACKOFF_S = 2, 0.5
CONNECT_SHARE = 0.75
LARGEST_ANSWER = 4 << 20
DATED = ("liveness", "health")  # Probes that read a server's clock: from its payload, else from its Date header.
HALF_SECOND_S = 0.5


class ProbeReading(NamedTuple):
    """The reading of a response: outcome, measured number, and further details to store."""

    outcome: str
    value: float | None = None
    detail: dict[str, Any] = {}  # noqa: RUF012  # It is never modified.


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """
    One request to one server.

    Attributes:
        probe, subject: The probe and its subject (see `Sample`).
        url: Without a query; it holds no secret.
        read: Reads a JSON response, given the middle of the time between request and response.
        headers: They may hold a secret.
        json_only: Whether only ``application/json`` is accepted; Tradier may send text/plain.
        most_bytes: Size limit of the response.
        reads_5xx: Whether the JSON of a response with status 500 or above is read too.
    """

    probe: str
    subject: str
    url: str
    read: Callable[[Any, datetime], ProbeReading]
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    method: str = "GET"
    json_only: bool = True
    most_bytes: int = LARGEST_ANSWER
    reads_5xx: bool = False


class RateLimiter:
    """
    Limits the requests to a provider to its rate, for all probes together.

    Args:
        per_min: Requests per minute; a sixth of them may be sent at once.
        speed: See `clock.speed`.
    """

    def __init__(self, per_min: float, speed: float):
        self._rate, self._most, self._speed = per_min / 60, max(1.0, per_min / 6), speed
        self._left, self._held_until_s = self._most, 0.0
        self._since_s: float | None = None

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() * self._speed

    def hold(self, seconds: float) -> None:
        """Send no request for a number of seconds, as the provider asked."""
        self._held_until_s = max(self._held_until_s, self._now_s() + min(seconds, 3600.0))

    def reserve(self, at_most_s: float) -> tuple[bool, float]:
        """
        Reserve the next free slot, and return whether it is within `at_most_s`, and the seconds until it.
        """
        now_s = self._now_s()
        self._left = (
            self._most if self._since_s is None else min(self._most, self._left + (now_s - self._since_s) * self._rate)
        )
        self._since_s = now_s
        wait_s = max(0.0, (1 - self._left) / self._rate, self._held_until_s - now_s)
        if wait_s > at_most_s:
            return False, wait_s
        self._left -= 1
        return True, wait_s


class Answer(NamedTuple):
    """The response of one attempt: an outcome if it could not be read, else its payload."""

    outcome: str | None
    payload: Any
    seconds: float
    wait_s: float | None
    detail: dict[str, Any]


class Prober:
    """
    Sends probe requests.

    Args:
        now: The clock.
        speed: See `clock.speed`; every timeout and pause is divided by it.
        chance: The source of jitter.
        patience: Every timeout is multiplied by it. Only the demo has another than 1: its seconds are short, and a busy
            machine must not make a probe time out.

    Attributes:
        attempt_s: Timeout of one attempt, in seconds of the event loop's clock.
    """

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], datetime] = clock.now,
        speed: float | None = None,
        chance: random.Random | None = None,
        patience: float = 1.0,
    ):
        self.settings, self.now = settings, now
        self.speed = clock.speed() if speed is None else speed
        self.patience, self.attempt_s = patience, ATTEMPT_S * patience / self.speed
        self.chance = chance or random.Random()
        self.buckets = {
            "massive": RateLimiter(settings.massive_per_min, self.speed),
            "tradier": RateLimiter(settings.tradier_per_min, self.speed),
        }
        self._trust = tls_context(settings.ca_file)

    def _client(self) -> "httpx.AsyncClient":
        """Create a client for one attempt; closing it closes all its connections."""
        import httpx

        return httpx.AsyncClient(
            transport=_transport(self._trust),
            follow_redirects=False,
            timeout=None,  # noqa: S113  # The caller sets a timeout for the whole attempt.
            headers={"User-Agent": f"opslib/{VERSION}", "Accept": "application/json"},
        )

    async def probe(self, question: ProbeRequest) -> list[Sample]:
        """
        Send a request, with retries where they can help, until there is an outcome or the time is up.

        Returns:
            One sample per attempt.
        """
        return [sample async for sample, _ in self.attempts(question)]

    async def attempts(self, question: ProbeRequest) -> AsyncGenerator[tuple[Sample, Any], None]:
        """Yield each attempt as a sample, with the payload if it could be read."""
        loop, bucket = asyncio.get_running_loop(), self.buckets.get(question.subject)
        until_s = loop.time() + PROBE_S * self.patience / self.speed
        for attempt in range(1, ATTEMPTS + 1):
            free, wait_s = (
                bucket.reserve(max(0.0, (until_s - loop.time() - self.attempt_s) * self.speed))
                if bucket
                else (True, 0.0)
            )
            if not free:
                yield (
                    self._sample(question, "quota_kept", None, None, attempt, True, {"wait_s": round(wait_s, 1)}),
                    None,
                )
                return
            await asyncio.sleep(wait_s / self.speed)
            sent = self.now()
            answer = await self._ask(question, min(self.attempt_s, max(0.001, until_s - loop.time())))
            middle = sent + (self.now() - sent) / 2
            reading = ProbeReading(answer.outcome) if answer.outcome else _read(question, answer.payload, middle)
            if bucket and answer.wait_s is not None and answer.detail.get("status", 200) < 500:
                # A Retry-After for the quota is kept; one of an outage (5xx) does not stop the probes.
                bucket.hold(answer.wait_s)
            pause_s = (
                answer.wait_s if answer.wait_s is not None else self.chance.uniform(0, BACKOFF_S * 2 ** (attempt - 1))
            )
            outcome = OUTCOMES[reading.outcome]
            again = (
                attempt < ATTEMPTS
                and (outcome.again or (answer.wait_s is not None and outcome.name == "rate_limited_429"))
                and loop.time() + pause_s / self.speed < until_s
            )
            yield (
                self._sample(
                    question,
                    outcome.name,
                    answer.seconds,
                    reading.value,
                    attempt,
                    not again,
                    answer.detail | reading.detail,
                ),
                answer.payload,
            )
            if not again:
                return
            await asyncio.sleep(pause_s / self.speed)

    def _sample(
        self,
        question: ProbeRequest,
        outcome: str,
        seconds: float | None,
        value: float | None,
        attempt: int,
        last: bool,
        detail: dict[str, Any],
    ) -> Sample:
        shown = self.settings.redact(json.dumps(detail, ensure_ascii=False, sort_keys=True))
        return Sample(
            clock.micros(self.now()), question.probe, question.subject, outcome, seconds, value, attempt, last, shown
        )

    async def _ask(self, question: ProbeRequest, within_s: float) -> Answer:
        """Make one attempt."""
        import httpx

        loop, detail = asyncio.get_running_loop(), dict[str, Any]()
        began_s, sent = loop.time(), self.now()
        # The connect timeout is shorter, so that both can be distinguished.
        timeout = httpx.Timeout(within_s, connect=within_s * CONNECT_SHARE)

        def ended(outcome: str | None, payload: Any = None, wait_s: float | None = None) -> Answer:
            return Answer(outcome, payload, (loop.time() - began_s) * self.speed, wait_s, detail)

        try:
            async with (
                asyncio.timeout(within_s),
                self._client() as client,
                client.stream(
                    question.method,
                    question.url,
                    params=question.params or None,
                    headers=dict(question.headers),
                    timeout=timeout,
                ) as answer,
            ):
                detail |= {"status": answer.status_code, "first_byte_s": round((loop.time() - began_s) * self.speed, 4)}
                if (
                    question.probe in DATED
                    and (skew_s := _skew_s(answer.headers, sent + (self.now() - sent) / 2)) is not None
                ):
                    detail["skew_s"] = skew_s
                if request_id := answer.headers.get("x-request-id"):
                    detail["request_id"] = formatting.single_line(request_id, 64)
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > question.most_bytes:
                        return ended("too_large")
                detail["bytes"] = len(body)
                quota, wait_s = _quota(answer.headers, self.now())
                detail |= quota
                outcome, payload = _payload_of(question, answer.status_code, answer.headers, bytes(body), detail)
                return ended(outcome, payload, wait_s)
        except TimeoutError:
            return ended("timeout")
        except httpx.ConnectTimeout:
            return ended("unreachable")
        except httpx.TimeoutException:
            return ended("timeout")
        except httpx.DecodingError:
            return ended("bad_json")
        except httpx.RequestError as problem:
            if why := tls_failure(problem):
                detail["why"] = why
            return ended(transport(problem))


@functools.cache
def _backend() -> Any:
    """
    Create httpcore's network backend, with a fix: a connection is closed when its TLS handshake is cancelled.

    httpcore 1.0 does not close such a connection: with a provider that hangs in its handshake, the collector would run
    out of file descriptors within days. A test counts them.
    """
    import httpcore

    class Stream(httpcore.AsyncNetworkStream):
        def __init__(self, inner: httpcore.AsyncNetworkStream):
            self._inner = inner

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return await self._inner.read(max_bytes, timeout)

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            await self._inner.write(buffer, timeout)

        async def aclose(self) -> None:
            await self._inner.aclose()

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

        async def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.AsyncNetworkStream:
            try:
                return await self._inner.start_tls(ssl_context, server_hostname, timeout)
            except BaseException:
                await asyncio.shield(self._inner.aclose())
                raise

    class Backend(httpcore.AnyIOBackend):
        async def connect_tcp(self, *where: Any, **how: Any) -> httpcore.AsyncNetworkStream:
            return Stream(await super().connect_tcp(*where, **how))

    return Backend()


def _transport(trust: ssl.SSLContext) -> "httpx.AsyncHTTPTransport":
    """Create httpx's transport over that backend."""
    import httpcore
    import httpx

    transport = httpx.AsyncHTTPTransport(verify=trust)
    transport._pool = httpcore.AsyncConnectionPool(ssl_context=trust, network_backend=_backend())
    return transport


def _read(question: ProbeRequest, payload: Any, middle: datetime) -> ProbeReading:
    """Read a response; an unexpected structure is the outcome `schema_mismatch`."""
    try:
        return question.read(payload, middle)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        return ProbeReading("schema_mismatch", detail={"missing": formatting.single_line(str(problem), 80)})


def transport(problem: BaseException) -> str:
    """Return the outcome for an exception of a connection, from its causes."""
    for cause in _under(problem):
        if isinstance(cause, ssl.SSLError):
            return "tls"
        if isinstance(cause, socket.gaierror):
            return "dns"
        if isinstance(cause, ConnectionRefusedError):
            return "refused"
        if isinstance(cause, TimeoutError) or (
            isinstance(cause, OSError)
            and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ETIMEDOUT)
        ):
            return "unreachable"
    return "reset"


def _number(given: str | None) -> float | None:
    try:
        found = float(given) if given else None
    except ValueError:
        return None
    return found if found is not None and 0 <= found < 1e15 else None


def _skew_s(headers: Any, middle: datetime) -> float | None:
    """
    Return by how many seconds a server's clock is ahead of ours, from its Date header, which has whole seconds.

    None if it sends no Date of its own.
    """
    sent = _sent(headers)
    return None if sent is None or clock.simulated() else round((sent - middle).total_seconds() + HALF_SECOND_S, 2)


def _sent(headers: Any) -> datetime | None:
    """
    Return when a response was sent, from its Date header; None if it has none, or comes from a cache.
    """
    if "date" not in headers or "age" in headers:
        return None
    try:
        sent = parsedate_to_datetime(headers["date"])
    except ValueError:
        return None
    return sent if sent.tzinfo else None


def _quota(headers: Any, now: datetime) -> tuple[dict[str, Any], float | None]:
    """Return the quota in a response, and the seconds to wait that it asks for (None: it does not)."""
    left, allowed = _number(headers.get("x-ratelimit-available")), _number(headers.get("x-ratelimit-allowed"))
    quota = {name: int(value) for name, value in (("quota_left", left), ("quota", allowed)) if value is not None}
    wait_s = _requested_wait_s(headers.get("retry-after"), headers.get("date"), now)
    expiry_ms = _number(headers.get("x-ratelimit-expiry"))
    if wait_s is None and left == 0 and expiry_ms is not None:
        # By the sender's own clock if it sends its time.
        wait_s = min(60.0, max(0.0, expiry_ms / 1000 - (_sent(headers) or now).timestamp()))
    return quota, wait_s


def _requested_wait_s(given: str | None, sent: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header, which may be a date by the sender's own clock."""
    seconds = _number(given)
    if given is None or seconds is not None:
        return seconds
    try:
        until = parsedate_to_datetime(given)
        since = parsedate_to_datetime(sent) if sent else now
        return max(0.0, (until - since).total_seconds())
    except (ValueError, TypeError):
        return None


def _payload_of(
    question: ProbeRequest, status: int, headers: Any, body: bytes, detail: dict[str, Any]
) -> tuple[str | None, Any]:
    """Return the outcome of a response by its status and content type, and its payload if it is valid."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= status < 400:
        detail["to"] = formatting.single_line(urlsplit(headers.get("location", "")).hostname or "", 80)
        return "redirected", None
    if status >= 400 and not (status >= 500 and question.reads_5xx and "json" in kind):
        words = body[:2000].decode("utf-8", "replace")
        detail["said"] = formatting.single_line(_error_message(words, kind), 160)
        keyed = any(name == "Authorization" for name, _ in question.headers)
        return refusal(status, kind, words.lower(), keyed), None
    if "json" not in kind and (question.json_only or kind not in ("text/plain", "")):
        detail["content_type"] = formatting.single_line(kind, 40)
        return "wrong_content", None
    try:
        return None, json.loads(body)
    except (ValueError, RecursionError):
        return "bad_json", None


def _error_message(words: str, kind: str) -> str:
    """Return the message of an error response: from its JSON, or its text; empty for an HTML page."""
    if "json" in kind:
        try:
            found = json.loads(words)
            return next((str(found[key]) for key in ("error", "message", "fault") if found.get(key)), words)
        except (ValueError, AttributeError):
            return words
    return "" if "<" in words else words


_ADDRESS = re.compile(r"\bip\b|\bips\b|\b\d{1,3}(\.\d{1,3}){3}\b|whitelist|allow[ -]?list|your address")
_PLAN = re.compile(r"entitle|\bplan\b|upgrade|subscri|not_authorized")


def refusal(status: int, kind: str, words: str, keyed: bool) -> str:
    """Return the outcome for a status of 400 or above; Tradier reports its quota with 400 too."""
    if status == 429 or (status == 400 and "quota" in words):
        return "rate_limited_429"
    if status == 401:
        return "auth_401" if keyed else "no_key_401"
    if status == 403:
        by_address = "html" in kind or _ADDRESS.search(words)
        if by_address:
            return "ip_blocked_403"
        if _PLAN.search(words):
            return "entitlement_403"
        return "denied_403"
    if status == 404:
        return "not_found_404"
    return "server_5xx" if status >= 500 else "client_4xx"
