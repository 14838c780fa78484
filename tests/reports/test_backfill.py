"""Test the publication of many reports, locally and on a Dask cluster, each once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opslib import desk
from opslib.cli import main
from opslib.foundation.errors import UsageError
from opslib.jobs import ledger
from opslib.reports import backfill


def ops(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict]]:
    """Run a range from the command line; return its exit code and the results."""
    capsys.readouterr()
    code = main.main(["report", *arguments, "-o", "json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_range_is_published_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only trading days are published; a second call publishes nothing again; failures are listed."""
    code, made = ops(capsys, "daily", "--day", "2026-02-13..2026-02-17", "--workers", "2")
    assert code == 3 and [(m["of"], m["state"]) for m in made] == [(f"2026-02-{d}", "incomplete") for d in (13, 17)]
    assert all(Path(m["page"]).exists() for m in made)
    assert {r["kernel"] for r in ledger.runs(desk.open().store)} == {"warm"}
    code, again = ops(capsys, "daily", "--day", "2026-02-13..2026-02-18")
    assert (code, [m["state"] for m in again]) == (3, ["made before"] * 2 + ["incomplete"])
    assert len(ledger.runs(desk.open().store)) == 3


def test_an_invalid_range() -> None:
    """An invalid range is rejected before any report is published."""
    assert backfill.period_names("weekly", "2025-W51..2026-W02") == ["2025-W51", "2025-W52", "2026-W01", "2026-W02"]
    assert backfill.period_names("monthly", "2025-12..2026-01") == ["2025-12", "2026-01"]
    for name, message in (
        ("daily", "2026-02-18..2026-02-13"),
        ("daily", "2026-02-14..2026-02-16"),
        ("daily", "now..2026-02-13"),
        ("monthly", "2026-03..2026-01"),
    ):
        with pytest.raises(UsageError):
            backfill.period_names(name, message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("daily", "--day", "2026-02-13..2026-02-18", "--partial"),
        ("daily", "--period", "2026-02..2026-03"),
        ("daily", "--day", "2026-02-13", "--workers", "3"),
        ("daily", "--day", "2026-02-13..2026-02-18", "--workers", "99"),
        ("daily", "--day", "2026-02-13..2026-02-18", "--scheduler", "tcp://127.0.0.1:9"),
    ],
)
def test_options_that_a_range_does_not_accept(
    home: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options for a single report, or a cluster that does not respond, are usage errors with exit code 64."""
    monkeypatch.setattr(backfill, "PATIENCE_S", 1)
    assert main.main(["report", *arguments]) == 64


CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", scheduler_port=0, dashboard_address=None) \
as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.mark.slow
def test_on_a_cluster(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers of a real Dask cluster publish the same reports in one database, each once."""
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"OPS_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        try:
            url = cluster.stdout.readline().strip()
            code, made = ops(capsys, "daily", "--day", "2026-02-13..2026-02-17", "--scheduler", url)
        finally:
            cluster.communicate("", timeout=30)
    assert code == 3 and [(m["of"], m["state"]) for m in made] == [
        ("2026-02-13", "incomplete"),
        ("2026-02-17", "incomplete"),
    ]
    assert sorted(r["due"] for r in ledger.runs(desk.open().store)) == [
        "report daily 2026-02-13",
        "report daily 2026-02-17",
    ]
