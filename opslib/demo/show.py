"""
Knows what ``ops demo`` shows: a trading day lived through, its report, its dashboard, its incident to the postmortem, and
whether every figure equals the script's own.
"""

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from opslib import drafting, runner, settings as settings_module, text
from opslib.demo import lapse, tour
from opslib.desk import Desk, notebook
from opslib.replies import Reply


def asked(options: argparse.Namespace, progress: Callable[..., Iterable], say: Callable[[str], None]) -> Reply:
    """Live through the day, and show what came of it; not done where a figure is another than the script's."""
    settings = settings_module.load(options.home, settings_module.DEMO)
    seed = tour.SEED if options.seed is None else options.seed
    desk = tour.live(settings, seed, progress)
    worst = tour.outage(seed)
    say("executing the daily report and a dashboard, and checking every figure against the script")
    with ThreadPoolExecutor() as pool:  # Each notebook has a kernel of its own.
        checked = pool.submit(tour.compared, desk, seed)
        pictured = pool.submit(_dashboard, desk, text.iso(worst))
        incident = desk.chronicle.all()[-1].id
        drafted = pool.submit(drafting.draft, desk, incident, lapse.LEAD)
        outcome, place = desk.publish_daily(tour.DAY, as_of=None, known_at=None, partial=False, timeout_s=runner.TIMEOUT_S)
        picture, (count, wrong), (_, postmortem, _) = pictured.result(), checked.result(), drafted.result()
        runbook = next(iter(sorted(desk.chronicle.folder(incident).glob("[0-9][0-9]_*.html"))))
    view = desk.status(worst)
    told = [s for name in ("providers", "greeks", "pnl", "system") for s in view.panel(name).sentences if s.startswith(("critical", "escalate"))]
    words = [
        f"A trading day, {tour.DAY}, seed {seed}: two pages posted it to the receiver, which kept it in {settings.home}.",
        f"\nAs it stood at {text.moment(worst)}: {view.verdict}",
        *(f"  {s}" for s in told),
        f"\n{count - len(wrong)} of {count} figures equal the script's own truth.",
        *wrong,
        f"\ndaily report   {place}.html",
        f"dashboard      {picture}.html",
        f"the runbook    {runbook}",
        f"postmortem     {postmortem}.html (a draft; write in {postmortem.name}.md beside it)",
        f"its evidence   ops --app demo verify {incident}",
        "alerts         ops --app demo alerts",
        f"any moment     ops --app demo status --as-of {worst.astimezone(text.NEW_YORK):%Y-%m-%dT%H:%M}",
        "by hand        ops --app demo lab (ops --app demo dashboard: without code)",
    ]
    values = {"seed": seed, "figures": count, "wrong": wrong, "report": f"{place}.html", "state": outcome.state, "dashboard": f"{picture}.html", "incident": incident, "runbook": str(runbook), "postmortem": f"{postmortem}.html"}
    return Reply(values, "\n".join(words), not wrong and outcome.state == "ok")


def _dashboard(desk: Desk, as_of: str) -> Path:
    _, place = runner.run(notebook("dashboard"), {"app": desk.settings.app, "as_of": as_of}, settings=desk.settings, store=desk.store)
    return place
