"""Our receiver stores posted alerts as a real Alertmanager does."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import FOREIGN
from opslib.services.server import ServerThread
from tests.alerting.notifications.test_external_alerts import ZERO, alertmanager, asked, process, until
from tests.support.servers import free_port
from tests.support.system import needs


class Both:
    """Our receiver and a real Alertmanager, which get the same requests."""

    def __init__(self, ours: str, theirs: str, store: Database):
        self.ours, self.theirs, self.store, self.sent = f"{ours}/api/v2/alerts", f"{theirs}/api/v2/alerts", store, 0

    def answers(self, body: bytes) -> tuple[int, int]:
        """Return the HTTP status of each."""
        return tuple(self._post(url, body) for url in (self.ours, self.theirs))

    @staticmethod
    def _post(url: str, body: bytes) -> int:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60
            ) as answer:
                return answer.status
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code

    def kept(self) -> dict[str, tuple[dict[str, str], dict[str, str], int]]:
        """Return our active alerts by tag: labels, annotations, start."""
        now_us = clock.micros(clock.now())
        with self.store.reading() as connection:
            rows = connection.execute(sa.select(FOREIGN).where(FOREIGN.c.ends_us > now_us)).all()
        found = [(json.loads(row.labels), json.loads(row.annotations), row.starts_us) for row in rows]
        return {labels["tag"]: (labels, *more) for labels, *more in found}

    def kept_there(self) -> dict[str, tuple[dict[str, str], dict[str, str], int]]:
        """Return Alertmanager's active alerts by tag: labels, annotations, start."""
        return {
            a["labels"]["tag"]: (
                a["labels"],
                a["annotations"],
                clock.micros(
                    datetime.fromisoformat(
                        a["startsAt"].replace("0000", "0001", 1) if a["startsAt"].startswith("0000") else a["startsAt"]
                    )
                ),
            )
            for a in asked(self.theirs)
        }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder, port = tmp_path_factory.mktemp("both"), free_port()
    found = settings.load(folder / "home", None, {})
    store = Database(found.url)
    with ServerThread(found, store, rules.load()) as served, alertmanager(folder / "am", served.url, port):
        yield Both(served.url, f"http://127.0.0.1:{port}", store)
    store.close()


def _at(seconds: float) -> str:
    return (
        datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC) + timedelta(seconds=seconds)
    ).isoformat()


NAMES = st.sampled_from(
    ["alertname", "severity", "a", "_", "A9", "a.b", "a-b", "1a", "größe", "a:b", "", "__name__", "ALERTNAME"]
)
VALUES = st.sampled_from(["", "x", "critical", "$(reboot)", "größe", "x" * 3000, " ", "a.b"]) | st.none()
WHEN = st.sampled_from(
    [
        None,
        ZERO,
        "",
        -3600.0,
        -60.0,
        900.0,
        7200.0,
        "0001-01-01T01:00:00+01:00",
        "1999-01-01T00:00:00",
        "2020-02-29T10:00Z",
    ]
)
ALERTS = st.fixed_dictionaries(
    {"labels": st.dictionaries(NAMES, VALUES, max_size=4)},
    optional={
        "annotations": st.dictionaries(NAMES, VALUES, max_size=3) | st.none(),
        "startsAt": WHEN,
        "endsAt": WHEN,
        "generatorURL": st.sampled_from(["http://p/g", "", "/graph"]),
        "more": st.integers(),
    },
)


def test_generated_batches_are_stored_as_by_alertmanager(both: Both) -> None:
    """
    For generated batches the receiver responds with Alertmanager's status and keeps the same alerts with the same
    labels, annotations and starts.
    """
    compared = [0]

    @hypothesis_settings(
        max_examples=120, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(batch=st.lists(ALERTS, min_size=1, max_size=6))
    def same(batch: list[dict[str, Any]]) -> None:
        tags = []
        for found in batch:
            both.sent += 1
            tags.append(f"g{both.sent}")
            found["labels"] = {**found["labels"], "tag": tags[-1]}
            for when in ("startsAt", "endsAt"):
                if isinstance(found.get(when), float):
                    found[when] = _at(found[when])
        ours, theirs = both.answers(json.dumps(batch).encode())
        assert ours == theirs, batch
        kept, there = both.kept(), both.kept_there()
        for tag, found in zip(tags, batch):
            assert (tag in kept) == (tag in there), found
            if tag in kept:
                compared[0] += 1
                assert kept[tag][:2] == there[tag][:2], found
                assert abs(max(kept[tag][2], 0) - max(there[tag][2], 0)) < 30e6, found  # The two clocks differ.

    same()
    assert compared[0] > 100


def _cases() -> dict[str, Any]:
    labels = {"alertname": "X"}
    return {
        "plain": {"labels": labels},
        "number as label": {"labels": labels | {"a": 3}},
        "true as label": {"labels": labels | {"a": True}},
        "object as label": {"labels": labels | {"a": {}}},
        "list of labels": {"labels": []},
        "text of labels": {"labels": "x"},
        "no labels": {"annotations": {}},
        "null labels": {"labels": None},
        "nothing": {},
        "list of annotations": {"labels": labels, "annotations": []},
        "number as annotation": {"labels": labels, "annotations": {"a": 1}},
        "a number": 3,
        "a text": "x",
        "a list": [],
        "Labels": {"Labels": labels},
        "STARTSAT": {"labels": labels, "STARTSAT": _at(-5)},
        **{
            f"starts {when}": {"labels": labels, "startsAt": when}
            for when in (
                "soon",
                "2026-03-10",
                "2026-03-10 10:00:00Z",
                "2026-03-10 10:00:00",
                "2026-03-10T1:00:00Z",
                "2026-03-10T10:00:00+0000",
                "2026-03-10T10:00:00.000+0000",
                "2026-03-10T10:00:00.000000+0000",
                "2026-03-10T10:00",
                "2026-03-10T10:00:00+23:59",
                "2026-03-10T10:00+01:00",
                "2026-03-10T10:00:00.5",
                "2026-03-10T10:00:00-00:00",
                " 2026-03-10T10:00:00Z",
                "2026-3-10T10:00:00Z",
                "2026-03-10T10:00:00.5 Z",
                "2026-03-10t10:00:00z",
                "20260310T100000Z",
                "2026-02-30T10:00:00Z",
                "2016-12-31T23:59:60Z",
                "2026-03-10T24:00:00Z",
                "2026-03-10T10:00:00.Z",
                "2026-03-10T10:00:00.1Z",
                "2026-03-10T10:00:00,5Z",
                "10000-12-31T23:59:59Z",
                1700000000,
                "0000-01-01T00:00:00Z",
                "1960-01-01T00:00:00Z",
            )
        },
        **{
            f"ends {when}": {"labels": labels, "endsAt": when}
            for when in ("soon", 3, "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00", "2000-01-01T00:00:00Z")
        },
        "NUL": {"labels": labels | {"a": "x\0y"}},
        "escape": {"labels": labels | {"a": "\x1b[31m"}},
        "right to left": {"labels": labels | {"a": "\u202ex"}},
        "half a pair": {"labels": labels | {"a": "\ud800"}},
        "long name": {"labels": labels | {"a" * 3000: "x"}},
        "long label": {"labels": labels | {"a": "x" * 9000}},
        "long annotation": {"labels": labels, "annotations": {"description": "x" * 200_000}},
        "300 labels": {"labels": labels | {f"l{n}": "x" for n in range(300)}},
    }


def test_unusual_alerts_are_stored_as_by_alertmanager(both: Both) -> None:
    """
    The unusual alerts that Alertmanager keeps when sent one by one are those that the receiver keeps from one batch; an
    invalid alert rejects no other.
    """
    batch = []
    for name, found in _cases().items():
        both.sent += 1
        for key in ("labels", "Labels"):
            if isinstance(found, dict) and isinstance(found.get(key), dict):
                found[key] = {**found[key], "tag": f"c{both.sent}", "case": name}
        both._post(both.theirs, json.dumps([found]).encode())
        batch.append(found)
    assert both._post(both.ours, json.dumps(batch).encode()) == 400
    kept, there = (
        {tag: labels["case"] for tag, (labels, *_) in found.items() if tag.startswith("c")}
        for found in (both.kept(), both.kept_there())
    )
    # Alertmanager rejects these two, but their meaning is clear.
    more = {"starts 2026-03-10T10:00:00+0000", "starts 2026-03-10T10:00+01:00"}
    assert set(kept.values()) == set(there.values()) | more and len(kept) > 15


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"{}", 400),
        (b"null", 200),
        (b"[]", 200),
        (b" [] ", 200),
        (b"[] x", 200),
        (b"[" * 20_000, 400),
        (
            json.dumps(
                [{"labels": {"alertname": "B", "tag": f"m{n}"}, "annotations": {"d": "x" * 900}} for n in range(3000)]
            ).encode(),
            200,
        ),
    ],
)
def test_bodies_get_the_status_of_alertmanager(both: Both, body: bytes, status: int) -> None:
    """Each body gets the same status as from Alertmanager; a huge batch is stored completely."""
    assert both.answers(body) == (status, status)
    if body.startswith(b"[{"):
        kept, there = ({tag for tag in found if tag.startswith("m")} for found in (both.kept(), both.kept_there()))
        assert kept == there and len(kept) == 3000


def test_a_batch_from_prometheus_is_stored_as_by_alertmanager(both: Both, tmp_path: Path) -> None:
    """
    A real Prometheus sends one batch to both: a very long description, text in other scripts and with escape sequences,
    an empty label, a name that is a shell command, and a relabelled label that Alertmanager 0.25 rejects. Both keep the
    same alerts.
    """
    rules_of = [
        {
            "alert": "LongDescription",
            "labels": {"severity": "warning"},
            "annotations": {"description": "host is missing; " * 2000},
        },
        {
            "alert": "Critical",
            "labels": {"severity": "critical", "empty": ""},
            "annotations": {"summary": "größe 日本 \u202e \x1b[31m"},
        },
        {"alert": "$(reboot)", "labels": {"severity": "critical"}, "annotations": {"summary": "x"}},
        {"alert": "Odd", "labels": {"severity": "critical", "a1odd": "x"}, "annotations": {}},
        {"alert": "Plain"},
    ]
    (tmp_path / "rules.yml").write_text(
        json.dumps(
            {
                "groups": [
                    {
                        "name": "g",
                        "interval": "1s",
                        "rules": [
                            r | {"expr": "vector(1)", "labels": {"tag": f"p{n}", **r.get("labels", {})}}
                            for n, r in enumerate(rules_of)
                        ],
                    }
                ]
            }
        )
    )
    targets = [url.removeprefix("http://").partition("/")[0] for url in (both.ours, both.theirs)]
    (tmp_path / "p.yml").write_text(
        json.dumps(
            {
                "global": {"evaluation_interval": "1s", "external_labels": {"site": "one"}},
                "rule_files": ["rules.yml"],
                "alerting": {
                    "alert_relabel_configs": [{"action": "labelmap", "regex": "a(1odd)", "replacement": "$1"}],
                    "alertmanagers": [{"api_version": "v2", "static_configs": [{"targets": targets}]}],
                },
            }
        )
    )
    port = free_port()
    command = [
        needs("prometheus"),
        f"--config.file={tmp_path / 'p.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--rules.alert.resend-delay=1s",
    ]

    def of(found):
        return {tag: value for tag, value in found.items() if tag.startswith("p")}

    with process(*command, ready=lambda: asked(f"http://127.0.0.1:{port}/-/ready") is not None):
        until(lambda: len(of(both.kept())) >= 4 and len(of(both.kept_there())) >= 4, 90)
        fires = asked(f"http://127.0.0.1:{port}/api/v1/alerts")["data"]["alerts"]
        assert len(fires) == 5
        kept, there = of(both.kept()), of(both.kept_there())
    assert {labels["alertname"] for labels, *_ in kept.values()} == {
        "LongDescription",
        "Critical",
        "$(reboot)",
        "Plain",
    }
    assert {tag: found[0] for tag, found in kept.items()} == {tag: found[0] for tag, found in there.items()}
    assert {tag: found[2] // 1000 for tag, found in kept.items()} == {
        tag: found[2] // 1000 for tag, found in there.items()
    }
    assert kept["p1"][1]["summary"].startswith("größe 日本") and kept["p1"][1]["summary"].isprintable()
