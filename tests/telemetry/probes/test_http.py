"""HTTP probes: each way in which a request can fail has its own outcome, and no sample has a secret."""

import asyncio
import random
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from opslib.foundation.config import settings
from opslib.simulation.world.http_server import Answer, Request, Server, as_html, as_json
from opslib.telemetry.probes import http
from opslib.telemetry.probes import outcomes as outcomes_module
from opslib.telemetry.probes.http import Prober, ProbeReading, ProbeRequest
from tests.support.servers import serving

TOKEN = "s3cr3t/t0ken+value"
SPEED = 20.0
NOW = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)


def said(payload: object, _: datetime) -> ProbeReading:
    return ProbeReading("ok", float(payload["value"]))


def found(tmp_path, **more) -> settings.Settings:
    return settings.load(tmp_path, None, {"OPS_MASSIVE_TOKEN": TOKEN, **more})


def asked(tmp_path, answer, state: str = "open", patience: float = 1.0, **how):
    """Every attempt of one probe to a server that answers in this way."""

    async def ask():
        async with serving(answer, state) as url:
            prober = Prober(found(tmp_path), lambda: NOW, SPEED, random.Random(1), patience)
            return await prober.probe(
                ProbeRequest(
                    "liveness",
                    "massive",
                    f"{url}/v1/marketstatus/now",
                    said,
                    headers=(("Authorization", f"Bearer {TOKEN}"),),
                    **how,
                )
            )

    return asyncio.run(ask())


def echo(request: Request) -> str:
    return request.headers.get("authorization", "")


CASES = {
    "ok": (lambda _: as_json({"value": 3}), "ok"),
    "an error of its own": (lambda _: as_html("Bad gateway", 502), "server_5xx"),
    "no answer": (lambda _: Answer(fault="hang"), "timeout"),
    "a drip of bytes": (lambda _: Answer(200, b"x" * 100_000, fault="drip"), "timeout"),
    "a torn connection": (lambda _: Answer(fault="reset"), "reset"),
    "a page with 200": (lambda _: as_html("Sign in"), "wrong_content"),
    "JSON cut off": (lambda _: Answer(200, b'{"value": 3'), "bad_json"),
    "gzip cut off": (lambda _: Answer(200, b'{"value": 3}' * 50, fault="truncated_gzip"), "bad_json"),
    "JSON of another shape": (lambda _: as_json({"other": 3}), "schema_mismatch"),
    "JSON that is no object": (lambda _: as_json([1]), "schema_mismatch"),
    "ten megabytes": (lambda _: Answer(200, b'"' + b"x" * 10_000_000 + b'"'), "too_large"),
    "elsewhere": (
        lambda _: Answer(302, b"", headers={"Location": "https://elsewhere.example/?apiKey=x"}),
        "redirected",
    ),
    "no such key": (lambda _: as_json({"status": "ERROR", "error": "Unknown API Key"}, 401), "auth_401"),
    "another plan": (
        lambda _: as_json(
            {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data. Please upgrade your plan"}, 403
        ),
        "entitlement_403",
    ),
    "another address": (
        lambda _: as_json({"status": "ERROR", "error": "This IP address is not allowed"}, 403),
        "ip_blocked_403",
    ),
    "another address, otherwise": (
        lambda _: as_json({"message": "Requests from IP 203.0.113.7 are not permitted for this key"}, 403),
        "ip_blocked_403",
    ),
    "no reason": (lambda _: as_json({"message": "Forbidden"}, 403), "denied_403"),
    "an edge that blocks": (lambda _: as_html("Access denied", 403), "ip_blocked_403"),
    "too often": (
        lambda _: as_json({"status": "ERROR", "error": "You've exceeded the maximum requests per minute"}, 429),
        "rate_limited_429",
    ),
    "too often, said with 400": (
        lambda _: as_json({"fault": {"faultstring": "Quota Violation"}}, 400),
        "rate_limited_429",
    ),
    "no such path": (lambda _: as_json({"status": "NOT_FOUND"}, 404), "not_found_404"),
    "a bad question": (lambda _: Answer(400, b"Invalid symbol", "text/plain"), "client_4xx"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_response_has_its_outcome(tmp_path, name: str) -> None:
    """Each kind of response has its own outcome, on the last attempt."""
    answer, expected = CASES[name]
    # Only a server that never finishes may make a probe time out, not a busy machine.
    samples = asked(tmp_path, answer, patience=1.0 if expected == "timeout" else 100.0)
    assert (samples[-1].outcome, samples[-1].last) == (expected, True)
    assert [s.attempt for s in samples] == list(range(1, len(samples) + 1)) and not any(s.last for s in samples[:-1])
    assert len(samples) == (2 if outcomes_module.OUTCOMES[expected].again else 1)
    assert samples[0].value == (3.0 if name == "ok" else None) and samples[0].seconds is not None


@pytest.mark.parametrize(("state", "expected"), [("closed", "refused"), ("swallowing", "unreachable")])
def test_failed_connections(tmp_path, state: str, expected: str) -> None:
    """A closed port is "refused"; a port that drops all packets is "unreachable" within the probe's deadline."""
    samples = asked(tmp_path, lambda _: as_json({}), state)
    assert {s.outcome for s in samples} == {expected} and sum(s.seconds or 0 for s in samples) < http.PROBE_S + 1


def test_names_and_certificates(tmp_path) -> None:
    """
    A name that does not resolve is "dns"; an untrusted, expired or wrong-host certificate is "tls"; a trusted one is
    "ok".
    """
    ours, strange = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificates = {
        "ok": ours.issue_cert("127.0.0.1"),
        "other": ours.issue_cert("elsewhere.example"),
        "expired": ours.issue_cert(
            "127.0.0.1", not_before=datetime(2019, 1, 1, tzinfo=UTC), not_after=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        "strange": strange.issue_cert("127.0.0.1"),
    }

    async def ask() -> dict[str, str]:
        async def answered(_: Request) -> Answer:
            return as_json({"value": 1})

        prober, ended = Prober(found(tmp_path, SSL_CERT_FILE=str(tmp_path / "ca.pem")), lambda: NOW, SPEED), {}
        for name, certificate in certificates.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            server = Server(answered, asyncio.sleep, lambda context=context: context)
            await server.set_state("open")
            ended[name] = (
                await prober.probe(ProbeRequest("liveness", "massive", f"https://127.0.0.1:{server.port}", said))
            )[-1].outcome
            await server.set_state("closed")
        ended["no name"] = (await prober.probe(ProbeRequest("liveness", "massive", "http://nowhere.invalid:1", said)))[
            -1
        ].outcome
        return ended

    assert asyncio.run(ask()) == {"ok": "ok", "other": "tls", "expired": "tls", "strange": "tls", "no name": "dns"}


def test_retry_after_is_respected(tmp_path) -> None:
    """A 429 with a short Retry-After is retried after that time and not before; with a longer one it is not retried."""
    times: list[float] = []

    def answer(wait: str, request: Request) -> Answer:
        times.append(asyncio.get_running_loop().time() * SPEED)
        return as_json({"error": "x"}, 429, headers={"Retry-After": wait}) if len(times) == 1 else as_json({"value": 1})

    samples = asked(tmp_path, lambda r: answer("3", r))
    assert [s.outcome for s in samples] == ["rate_limited_429", "ok"] and times[1] - times[0] >= 3
    times.clear()
    assert [s.outcome for s in asked(tmp_path, lambda r: answer("30", r))] == ["rate_limited_429"]


def test_an_outage_is_probed_despite_retry_after(tmp_path) -> None:
    """After a 503 with a Retry-After of ten minutes the next probe still sends a request; after a 429 it does not."""

    async def ask(status: int) -> list[str]:
        async with serving(lambda _: as_json({"error": "x"}, status, headers={"Retry-After": "600"})) as url:
            prober = Prober(found(tmp_path), lambda: NOW, SPEED)
            return [(await prober.probe(ProbeRequest("liveness", "massive", url, said)))[-1].outcome for _ in range(3)]

    assert asyncio.run(ask(503)) == ["server_5xx"] * 3 and asyncio.run(ask(429)) == [
        "rate_limited_429",
        "quota_kept",
        "quota_kept",
    ]


def test_patience_extends_every_timeout(tmp_path) -> None:
    """With patience, a response that takes longer than the timeout is awaited."""
    quick = 400.0  # The timeout of an attempt is 0.01 s.

    async def ask(patience: float) -> set[str]:
        async with serving(lambda _: as_json({"value": 3}, after_s=5.0)) as url:
            prober = Prober(found(tmp_path), lambda: NOW, quick, random.Random(1), patience)
            return {s.outcome for s in await prober.probe(ProbeRequest("liveness", "massive", url, said))}

    assert asyncio.run(ask(10_000.0)) == {"ok"}
    assert asyncio.run(ask(1.0)) <= {"timeout", "unreachable"}


def test_retry_after_may_be_a_date(tmp_path) -> None:
    """Retry-After as a date is read relative to the sender's own Date."""

    def answer(request: Request) -> Answer:
        return as_json(
            {"error": "x"},
            429,
            headers={"Date": "Tue, 10 Mar 2026 10:00:00 GMT", "Retry-After": "Tue, 10 Mar 2026 10:00:30 GMT"},
        )

    async def ask() -> list[str]:
        async with serving(answer) as url:
            prober = Prober(found(tmp_path), lambda: NOW, SPEED)
            return [(await prober.probe(ProbeRequest("liveness", "massive", url, said)))[-1].outcome for _ in range(2)]

    assert asyncio.run(ask()) == ["rate_limited_429", "quota_kept"]


def test_the_reason_of_a_tls_failure(tmp_path) -> None:
    """The sample has the reason why a certificate is not trusted, or that the port does not speak TLS."""

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask(context: ssl.SSLContext | None) -> str:
        server = await asyncio.start_server(plain, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            sample = (
                await Prober(found(tmp_path), lambda: NOW, SPEED).probe(
                    ProbeRequest("liveness", "massive", f"https://127.0.0.1:{port}", said)
                )
            )[-1]
        assert sample.outcome == "tls"
        return sample.details()["why"]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    assert (
        "unable to get local issuer" in asyncio.run(ask(context))
        and asyncio.run(ask(None)) == "the server does not speak TLS"
    )


def test_a_missing_key(tmp_path) -> None:
    """A 401 to a request without a key is reported as a missing key, not as a rejected one."""

    async def ask() -> str:
        async with serving(lambda _: as_json({"error": "API Key was not provided"}, 401)) as url:
            return (
                await Prober(found(tmp_path), lambda: NOW, SPEED).probe(ProbeRequest("liveness", "massive", url, said))
            )[-1].outcome

    assert asyncio.run(ask()) == "no_key_401"


def test_a_quota_is_respected(tmp_path) -> None:
    """
    However many probes run at once, a provider gets no more requests than its quota allows; skipped probes are reported
    as our own fault.
    """
    seen: list[float] = []

    def answer(_: Request) -> Answer:
        seen.append(asyncio.get_running_loop().time() * SPEED)
        return as_json({"value": 1})

    async def ask():
        async with serving(answer) as url:
            from dataclasses import replace

            prober = Prober(replace(found(tmp_path), massive_per_min=60.0), lambda: NOW, SPEED)
            samples = await asyncio.gather(
                *(prober.probe(ProbeRequest("liveness", "massive", url, said)) for _ in range(40))
            )
            return [s.outcome for look in samples for s in look]

    outcomes = asyncio.run(ask())
    assert set(outcomes) == {"ok", "quota_kept"} and outcomes.count("ok") == len(seen) <= 10 + 10
    assert (
        not outcomes_module.OUTCOMES["quota_kept"].usable
        and outcomes_module.OUTCOMES["quota_kept"].fault == outcomes_module.OURS
    )


def test_the_remaining_quota_is_read(tmp_path) -> None:
    """
    The quota in the response headers is stored with the sample. If none is left, no request is sent until it is reset.
    """
    calls: list[int] = []

    def answer(_: Request) -> Answer:
        calls.append(1)
        expiry = str(int((NOW + timedelta(seconds=40)).timestamp() * 1000))
        return as_json(
            {"value": 1},
            headers={"X-Ratelimit-Allowed": "120", "X-Ratelimit-Available": "0", "X-Ratelimit-Expiry": expiry},
        )

    async def ask():
        async with serving(answer) as url:
            prober = Prober(found(tmp_path), lambda: NOW, SPEED)
            snapshots = [(await prober.probe(ProbeRequest("liveness", "massive", url, said)))[-1] for _ in range(2)]
            return snapshots

    first, second = asyncio.run(ask())
    assert first.details()["quota"] == 120 and first.details()["quota_left"] == 0
    assert second.outcome == "quota_kept" and len(calls) == 1


@pytest.mark.parametrize("name", CASES)
def test_no_sample_contains_the_key(tmp_path, name: str) -> None:
    """Whatever a server responds, even our own key everywhere, no sample contains the key."""
    from urllib.parse import quote

    answer, _ = CASES[name]

    def echoing(request: Request) -> Answer:
        assert echo(request) == f"Bearer {TOKEN}"
        response = answer(request)
        body = (
            response.body.replace(b"API", TOKEN.encode()).replace(b"Invalid", quote(TOKEN, safe="").encode())
            or TOKEN.encode()
        )
        return Answer(
            response.status,
            body,
            response.content_type,
            {**response.headers, "X-Request-Id": TOKEN, "Location": f"http://{TOKEN}/{TOKEN}?apiKey={TOKEN}"},
            response.after_s,
            response.fault,
        )

    for sample in asked(tmp_path, echoing):
        assert TOKEN not in str(sample) and quote(TOKEN, safe="") not in str(sample)


def test_every_outcome_is_described() -> None:
    """
    Each outcome has a description, whose fault it is, and advice if something is wrong; only faults of the provider
    count against it.
    """
    for o in outcomes_module.OUTCOMES.values():
        assert o.words and o.fault in (
            outcomes_module.NO_FAULT,
            outcomes_module.PROVIDER,
            outcomes_module.OURS,
            outcomes_module.PLAN,
            outcomes_module.UNCLEAR,
        )
        assert o.usable or o.advice
        assert o.answered is not False or o.fault in (outcomes_module.PROVIDER, outcomes_module.UNCLEAR)
    for name in ("wrong_content", "entitlement_403", "rate_limited_429", "auth_401", "ip_blocked_403"):
        assert outcomes_module.OUTCOMES[name].answered is None


def test_a_broken_handshake_leaves_no_open_file(tmp_path) -> None:
    """If handshakes are aborted at any moment and probes are given up, no file descriptor stays open."""
    import psutil

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def ask() -> tuple[int, int, set[str]]:
        async def answered(_: Request) -> Answer:
            return as_json({"value": 1})

        server = Server(answered, asyncio.sleep, lambda: context)
        await server.set_state("open")
        question, ended = ProbeRequest("liveness", "massive", f"https://127.0.0.1:{server.port}", said), set()
        before = None
        for attempt in range(60):
            # Deadlines from zero to longer than a response takes, so that probes are aborted at each step.
            prober = Prober(
                found(tmp_path, SSL_CERT_FILE=str(tmp_path / "ca.pem")), lambda: NOW, 20_000 / (1 + attempt % 30) ** 2
            )
            ended |= {s.outcome for s in await prober.probe(question)}
            before = psutil.Process().num_fds() if attempt == 5 else before
        await server.set_state("closed")
        await asyncio.sleep(0.1)
        return before or 0, psutil.Process().num_fds(), ended

    before, after, ended = asyncio.run(ask())
    assert after <= before and {"ok"} < ended
