"""Test the runbooks: each has its sections, every reference exists, and every fault leads to a runbook that fits."""

import json
import re
from string import Formatter

import pytest

from opslib.alerting import causes
from opslib.foundation.config import contacts, rules
from opslib.foundation.config.rules import RUNBOOKS, SENT
from opslib.runbooks import catalog, hooks, steps
from opslib.runbooks.catalog import BRANCH, CAUSE, LIKELY, Runbook, source
from opslib.runbooks.checks import CHECKS
from opslib.simulation.world.faults import NO_FAULT, STATES
from tests.support.system import SHARED

RULES = rules.load().rules
NAMES = catalog.names()
GUIDE = SHARED / "operations-guide.md"
# The sections of each runbook, in this order; one more may follow Resolution.
SECTIONS = (
    "Incident",
    "Trader impact",
    "Detection",
    "Immediate actions (0–5 min)",
    "Diagnosis (5–15 min)",
    "Resolution (15–60 min)",
    "Validation",
    "Prevention",
    "Follow-up",
    "Step status",
)
CAUSES = frozenset(causes.CAUSES)
# What each runbook is about: panels of its rules, and words of which its title has one.
FITS = {
    "massive_down": ({"providers"}, ("Massive",)),
    "provider_availability": ({"providers", "system"}, ("provider",)),
    "greeks_quality": ({"greeks"}, ("Greeks",)),
    "backtest_variance": ({"pnl"}, ("backtest",)),
    "websocket_down": ({"system"}, ("Live prices",)),
    "memory_growth": ({"system"}, ("memory",)),
    "error_rate": ({"system"}, ("errors",)),
    "dashboard_slow": ({"system"}, ("dashboard",)),
    "monitor_down": ({"system"}, ("No data",)),
}
# The rule and subject that each state of the simulated world sets off, and the runbook that it leads to.
LEADS = {
    ("availability", "massive", "massive_down"): (
        "massive_5xx",
        "massive_timeout",
        "massive_refused",
        "massive_dns",
        "massive_tls",
        "massive_intermittent",
    ),
    ("answers", "massive", "provider_availability"): (
        "massive_401",
        "massive_403_plan",
        "massive_403_ip",
        "massive_429",
        "massive_html_200",
        "massive_empty",
        "massive_stale",
        "our_timeout_short",
    ),
    ("answers", "tradier", "provider_availability"): ("tradier_options_refused",),
    ("availability", "tradier", "provider_availability"): ("tradier_down",),
    ("availability", "app", "provider_availability"): ("both_down",),
    ("our_network", "app", "provider_availability"): ("our_network_down",),
    ("greeks_valid", "app", "greeks_quality"): ("greeks_missing",),
    ("greeks_units", "app", "greeks_quality"): ("unit_drift",),
    ("chain_whole", "massive", "provider_availability"): ("massive_partial_pages",),
    ("gamma_zero", "app", "greeks_quality"): ("gamma_zero",),
    ("delta_out_of_bounds", "app", "greeks_quality"): ("delta_out_of_bounds",),
    ("backtest_variance", "app", "backtest_variance"): ("commission_up", "spread_up", "bad_fills", "smaller_size"),
    ("websocket_down", "app", "websocket_down"): (
        "ws_closed_1006",
        "ws_open_silent",
        "ws_old_clients_dead",
        "ws_403",
        "ws_port_blocked",
    ),
    ("memory_growth", "app", "memory_growth"): ("memory_leak",),
    ("errors", "app", "error_rate"): ("error_storm",),
    ("dashboard_lag", "app", "dashboard_slow"): ("dashboard_slow",),
    ("app_response_time", "app", "monitor_down"): ("app_slow",),
    ("app_answers", "app", "monitor_down"): ("app_restarted",),
    ("app_down", "app", "monitor_down"): ("app_down", "app_hung"),
    ("heartbeat", "app", "monitor_down"): ("collector_dead", "collector_starved"),
    ("clock_skew", "monitor", "monitor_down"): ("clock_skew", "our_clock_fast", "our_clock_slow"),
    ("clock_skew", "massive", "monitor_down"): ("massive_clock_ahead", "massive_clock_behind"),
    ("clock_skew", "tradier", "monitor_down"): ("tradier_clock_ahead", "tradier_clock_behind"),
    ("clock_skew", "app", "monitor_down"): ("app_clock_behind", "page_clock_ahead", "page_clock_behind"),
}


@pytest.fixture(params=NAMES)
def found(request: pytest.FixtureRequest) -> Runbook:
    """Return each runbook in turn."""
    return catalog.runbook(request.param)


def prose(found: Runbook) -> str:
    return "\n\n".join(source(c) for c in found.cells if c["cell_type"] == "markdown")


def branches(found: Runbook) -> dict[str, list[str]]:
    """Return the causes of each branch, by its heading."""
    return {
        source(c).splitlines()[0]: [t.removeprefix(CAUSE) for t in c["metadata"]["tags"] if t.startswith(CAUSE)]
        for c in found.cells
        if BRANCH in c["metadata"].get("tags", [])
    }


# Sections.


def test_sections_are_in_order(found: Runbook) -> None:
    """A runbook has every section with its time box, in the guide's order, and lists common causes."""
    heads = [line.removeprefix("## ") for line in prose(found).splitlines() if line.startswith("## ")]
    asked = [next(h for h in heads if h.startswith(section)) for section in SECTIONS]
    assert [h for h in heads if h in asked] == asked and heads[0] == asked[0] and heads[-1] == asked[-1]
    between = heads[heads.index("Resolution (15–60 min)") + 1 : heads.index("Validation")]
    assert set(heads) - set(asked) == set(between) and len(between) <= 1
    assert "### Common causes" in prose(found) and found.notebook["metadata"]["opslib"] == "runbook"


def test_headings_are_short_titles(found: Runbook) -> None:
    """A heading is no question, begins with a capital, a digit or a command, and has at most 70 characters."""
    for line in prose(found).splitlines():
        if line.startswith("#"):
            head = line.lstrip("#").strip()
            assert "?" not in head and head[0].isupper() | head[0].isdigit() | head.startswith("ops "), head
            assert len(head) <= 70, head


def test_a_code_cell_is_one_call(found: Runbook) -> None:
    """A code cell is one call of the session; at most two follow each other."""
    kinds = "".join(c["cell_type"][0] for c in found.cells)
    assert "ccc" not in kinds
    for cell in [c for c in found.cells if c["cell_type"] == "code"][2:]:
        assert re.fullmatch(r"runbook\.[a-z_.]+(\(\"\w+\"\))?", source(cell)), source(cell)


def test_every_part_of_the_session_is_shown(found: Runbook) -> None:
    """Impact, detection, diagnosis, action items and step status are each shown once."""
    code = [source(c) for c in found.cells if c["cell_type"] == "code"]
    for face in ("impact", "detection", "diagnosis", "afterwards", "strip"):
        assert code.count(f"runbook.{face}") == 1, face


def test_default_parameters_are_a_dry_run(found: Runbook) -> None:
    """All runbooks have the same parameters; the defaults are a dry run on the demo at one moment, without a name."""
    cell = next(source(c) for c in found.cells if "parameters" in c["metadata"].get("tags", []))
    given = dict(re.findall(r'^(\w+): str = "([^"]*)"', cell, re.MULTILINE))
    assert list(given) == ["app", "incident", "operator", "subject", "severity", "limit", "window", "as_of"]
    assert (given["app"], given["incident"], given["operator"]) == ("demo", "practice", "") and given[
        "as_of"
    ].startswith("2026-03-10T")


def test_validation_repeats_the_first_checks(found: Runbook) -> None:
    """Validation repeats a check of the immediate actions, and checks all panels."""
    parts = re.split(r"(?=^## )", "\n".join(source(c) for c in found.cells), flags=re.MULTILINE)

    def of(head):
        return set(re.findall(r'runbook\.step\("(\w+)"\)', next(p for p in parts if p.startswith(f"## {head}"))))

    def looks(names):
        return {n for n in names if steps.step(n).kind == steps.CHECK}

    assert looks(of("Immediate")) & of("Validation") and "all_panels" in of("Validation")
    assert {"write_the_end", "runbook_learns"} <= of("Follow-up") and not of("Prevention")


def test_no_text_is_copied_from_the_guide(found: Runbook) -> None:
    """No seven consecutive words are copied from the guide."""
    if not GUIDE.is_file():
        pytest.skip("the guide is not beside the project")

    def words(text):
        return re.findall(r"[a-z0-9/.'’-]+", text.lower())

    theirs = words(GUIDE.read_text(encoding="utf-8"))
    known = {tuple(theirs[i : i + 7]) for i in range(len(theirs) - 6)}
    ours = words(prose(found) + " ".join(f"{s.do} . {s.expect} ." for s in found.steps))
    assert not [ours[i : i + 7] for i in range(len(ours) - 6) if tuple(ours[i : i + 7]) in known]


# Every reference exists.


def test_every_step_is_used_and_exists() -> None:
    """The steps of runbooks are exactly those of steps.toml; with checklists, every check and every hook is used."""
    named = {s.name for name in NAMES for s in catalog.runbook(name).steps}
    assert named == {s.name for s in steps.table().values() if s.box}
    assert {s.check for s in steps.table().values() if s.kind == steps.CHECK} == set(CHECKS)
    assert {s.hook for s in steps.table().values() if s.kind == steps.ACTION} == set(hooks.HOOKS)


@pytest.mark.parametrize("step", steps.table().values(), ids=lambda s: s.name)
def test_a_step_is_complete(step: steps.Step) -> None:
    """`do` and `expect` are sentences, a check's result is valid for minutes, and a message uses only known fields."""
    assert step.do.endswith((".", "?", '".')) and step.expect.endswith(".") and len(step.do) <= 130
    if step.kind == steps.CHECK:
        assert 60 <= step.fresh.total_seconds() <= 900
    assert {field for _, field, _, _ in Formatter().parse(step.says) if field} <= {
        "title",
        "standing",
        "cause",
        "requests",
    }
    assert step.kind == steps.ACTION or not (step.says or step.mitigates)


def test_links_have_a_target(found: Runbook) -> None:
    """Each link is to an existing file of the catalog."""
    for target in re.findall(r"\]\(([^)]+)\)", prose(found)):
        assert (catalog.folder() / target).is_file(), target


def test_branches_have_known_causes(found: Runbook) -> None:
    """Each branch has causes of CONTRACT.md, and no cause is twice in one runbook."""
    mine = [cause for each in branches(found).values() for cause in each]
    assert all(branches(found).values()) and set(mine) <= CAUSES and len(set(mine)) == len(mine)


def test_every_cause_has_a_branch() -> None:
    """Every cause of a diagnosis has a branch in a runbook."""
    has = {name: {c for section in branches(catalog.runbook(name)).values() for c in section} for name in NAMES}
    assert set().union(*has.values()) == CAUSES
    assert all(cause in has[name] for cause, name in causes.RUNBOOK_OF.items()), (
        "the runbook that a cause leads to has no branch for it"
    )
    assert set(causes.MASSIVE_OUT) <= has["massive_down"]
    contract = SHARED / "CONTRACT.md"
    if contract.is_file():
        section = re.search(r"### Causes\n(.+?)\n## ", contract.read_text(encoding="utf-8"), re.DOTALL)
        assert section and set(re.findall(r"`([a-z0-9_]+)`", section[1])) - {"subject"} == CAUSES


def test_the_likely_branch_comes_first(found: Runbook) -> None:
    """
    Filled in for a cause, the runbook has that cause's branch first and marked as likely; the others are folded.

    Only the introduction is left out.
    """
    above = found.cells[2]
    assert above["cell_type"] == "markdown" and "ops.runbook(" in source(found.cells[3])
    for head, each in branches(found).items():
        made = catalog.fill_in(found, {}, each[:1], "it is another cause")
        folded = [c for c in made["cells"] if c["metadata"].get("jp-MarkdownHeadingCollapsed")]
        assert len(folded) == sum(each[0] not in others for others in branches(found).values())
        assert all(source(c).endswith("Not needed: it is another cause") for c in folded)
        others = {other.removeprefix("### ") for other in branches(found)} - {head.removeprefix("### ")}
        assert set(found.ruled_out({each[0]}).values()) <= others
        first = next(source(c).splitlines()[0] for c in made["cells"] if BRANCH in c["metadata"].get("tags", []))
        assert first == f"### {LIKELY}{head.removeprefix('### ')}"
        assert sorted(c["id"] for c in made["cells"]) == sorted(c["id"] for c in found.cells if c is not above)
        ends = [source(c).splitlines()[0] for c in made["cells"] if source(c).startswith("## ")]
        assert ["## Incident", *ends] == [source(c).splitlines()[0] for c in found.cells if source(c).startswith("## ")]


# Every fault has a runbook.


def test_what_a_cause_rules_out() -> None:
    """Steps that only other branches have are ruled out; none are if the cause is unknown or has no branch."""
    found = catalog.runbook("massive_down")
    spared = found.ruled_out({"provider_5xx"})
    assert set(spared) == {
        "massive_key",
        "massive_address",
        "massive_plan",
        "massive_quota",
        "firewall",
        "restart_app",
    } and set(spared.values()) == {"If Massive responds, but the app cannot reach it"}
    assert "tradier_only" in found.ruled_out({"provider_auth"})
    assert found.ruled_out({"provider_5xx", "provider_auth"}) == found.ruled_out({"memory_leak"}) == {}
    assert found.ruled_out(set()) == {}
    assert found.titles["massive_answers"] == "Massive now" and len(found.titles) == len(found.steps)


def test_every_rule_leads_to_a_runbook_that_fits() -> None:
    """
    Every rule leads, for each subject and notified severity, to a runbook of its panel with a fitting title.

    Somebody is notified, and somebody is next on the escalation path.
    """
    for rule in RULES.values():
        for subject in rule.subjects:
            name = rule.runbooks[subject]
            for severity in (rung for rung, _ in rule.thresholds if rung in SENT):
                panels, words = FITS[name]
                assert name in NAMES and rule.panel in panels, (rule.name, subject, severity)
                assert any(word in catalog.runbook(name).title for word in words), catalog.runbook(name).title
                roles = contacts.Contacts().notified_roles(rule.who, severity)
                assert (
                    roles
                    and set(roles) <= set(rules.PATH)
                    and (contacts.Contacts().next_role(roles) or set(roles) == set(rules.PATH))
                )


def test_every_runbook_belongs_to_a_rule() -> None:
    """Each runbook belongs to a rule, except `incident`, which is for everything else."""
    led = {name for rule in RULES.values() for name in rule.runbooks.values()}
    assert led == set(NAMES) - {"incident"} == set(RUNBOOKS) == set(FITS)


def test_every_runbook_is_needed_by_a_fault() -> None:
    """
    Each fault of the simulated world leads to a runbook by a rule, and each runbook is needed by a fault.

    States that are no fault lead to none.
    """
    for rule, subject, name in LEADS:
        assert RULES[rule].runbooks[subject] == name, (rule, subject)
    assert {name for _, _, name in LEADS} == set(NAMES) - {"incident"}
    states = [state for found in LEADS.values() for state in found]
    assert (
        len(states) == len(set(states))
        and set(states) | set(NO_FAULT) == set(STATES)
        and not set(states) & set(NO_FAULT)
    )


def test_every_runbook_has_branches() -> None:
    """
    Each runbook has at least two branches, one of them for no fault or an undetermined cause (except `massive_down`).
    """
    for name in NAMES:
        mine = {c for found in branches(catalog.runbook(name)).values() for c in found}
        assert len(branches(catalog.runbook(name))) >= 2 and (name == "massive_down" or mine & {"none", "undetermined"})


def test_the_printed_page() -> None:
    """The printed page holds every runbook, with a box to tick for each step."""
    page = catalog.page()
    assert all(f"<article id='{name}'>" in page for name in NAMES) and page.count("☐") >= len(steps.table())
    assert json.dumps(page)
