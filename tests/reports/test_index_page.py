"""Test the page of all runs: complete, escaped, offline and searchable, also with concurrent writers."""

import json
import os
import re
from pathlib import Path

import pytest

from opslib.foundation import clock, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.reports import index_page
from tests.support.system import needs


def run(
    store: Database,
    n: int,
    notebook: str,
    place: Path,
    state: str = "ok",
    verdict: str = "ok",
    reason: str | None = None,
    **given: str,
) -> None:
    """Write one run into the ledger, with its published files."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_suffix(".json").write_text(json.dumps({"verdict": verdict}))
    place.with_suffix(".html").write_text("<p>x</p>")
    at = clock.micros(time_parsing.parse("2026-03-10T16:15")) + n * 10**6
    ledger.begins(
        store,
        None,
        id=f"r{n:04}",
        app="desk",
        notebook=notebook,
        started_at_us=at,
        parameters=json.dumps(given),
        state="running",
    )
    ledger.ends(
        store,
        f"r{n:04}",
        state=state,
        reason=reason,
        ended_at_us=at,
        outputs=[str(place.with_suffix(end)) for end in (".html", ".json")],
    )


@pytest.fixture
def desk(tmp_path: Path) -> tuple[settings.Settings, Database]:
    """Return a home directory whose path has to be escaped in a URL."""
    found = settings.load(tmp_path / "a b", None, {})
    found.home.mkdir()
    return found, Database(found.url)


def test_it_lists_every_run(desk: tuple[settings.Settings, Database]) -> None:
    """The page has every run, newest first; the newest reports are at the top; links lead to existing files."""
    where, store = desk
    for n in range(5):
        run(
            store,
            n,
            "notebooks/daily_report.ipynb",
            where.outputs / "reports" / f"2026-03-0{n + 1}_daily x",
            verdict="critical" if n == 4 else "ok",
            day=f"2026-03-0{n + 1}",
        )
    run(
        store,
        9,
        "notebooks/weekly_report.ipynb",
        where.outputs / "reports" / "w",
        state="failed",
        verdict="",
        reason="the kernel <died>",
        period="2026-W10",
    )
    page = index_page.write(Workspace(where)).read_text()
    newest, every = page.split("<summary>All runs of notebooks</summary>")
    assert every.count("<tr><th scope") == len(ledger.runs(store)) == 6
    assert (
        "◆ critical" in newest
        and newest.index("Daily 2026-03-05") < newest.index("Daily 2026-03-04")
        and "the kernel &lt;died&gt;" in page
        and "<died>" not in page
    )
    links = re.findall(r'href="([^"]+)"', page)
    from urllib.parse import unquote

    assert links and all((where.home / unquote(link).partition("#")[0]).is_file() for link in links)


def test_it_works_offline_and_can_be_searched(desk: tuple[settings.Settings, Database]) -> None:
    """In a browser, from the disk: only its own script runs, no request is sent, and search hides rows."""
    from playwright.sync_api import sync_playwright

    where, store = desk
    run(store, 1, "notebooks/daily_report.ipynb", where.outputs / "reports" / "a", day="2026-03-10")
    run(
        store,
        2,
        "notebooks/weekly_report.ipynb",
        where.outputs / "reports" / "b",
        verdict="critical",
        reason="<img src=x onerror=alert(1)><script>document.title='bad'</script>",
        period="2026-W10",
    )
    place = index_page.write(Workspace(where))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=needs("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        shown = browser.new_page()
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(place.as_uri())
        assert (
            shown.locator("#runs tbody tr:visible").count() == 2
            and shown.locator("#count").inner_text() == "2 of 2 runs"
        )
        shown.fill("#search", "weekly CRITICAL")
        assert (
            shown.locator("#runs tbody tr:visible").count() == 1
            and shown.locator("#count").inner_text() == "1 of 2 runs"
        )
        shown.fill("#search", "nothing of the kind")
        assert shown.locator("#runs tbody tr:visible").count() == 0
        assert "home" in shown.title() and asked == [place.as_uri()]
        browser.close()


def test_concurrent_writers(desk: tuple[settings.Settings, Database]) -> None:
    """If eight processes end runs and write the page at the same time, it has all runs at the end."""
    where, store = desk
    store.close()
    pids = []
    for n in range(8):
        if (pid := os.fork()) == 0:
            try:
                own = Database(where.url)
                for i in range(5):
                    run(own, 10 * n + i, f"notebooks/n{n}.ipynb", where.outputs / "runs" / f"{n}-{i}")
                    index_page.write(Workspace(where))
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    page = (where.home / index_page.NAME).read_text()
    assert page.split("<summary>All runs of notebooks</summary>")[1].count("<tr><th scope") == 40 and not list(
        where.home.glob(".index*")
    )


def test_more_runs_than_it_shows(desk: tuple[settings.Settings, Database], monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gives the number of older runs; entries of incidents are not runs."""
    where, store = desk
    monkeypatch.setattr(index_page, "NEWEST", 3)
    for n in range(5):
        run(store, n, "notebooks/a.ipynb", where.outputs / "runs" / str(n))
    run(store, 7, "incidents/2026-03-10-1", where.outputs / "runs" / "i")
    page = index_page.write(Workspace(where)).read_text()
    assert "2 older runs are in the ledger" in page and "incidents/" not in page


def test_a_page_that_cannot_be_written(
    desk: tuple[settings.Settings, Database], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged, and no error is raised."""
    where, _ = desk
    (where.home / index_page.NAME).mkdir()
    index_page.keep_current(Workspace(where))
    assert "index.html was not written" in caplog.text + capsys.readouterr().err
