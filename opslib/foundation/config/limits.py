"""Read the limits of rules.toml that are not alert rules: for probes, chains and days."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """
    What our own looks are judged by as they are made.

    Attributes:
        silent_after_s: Where an open socket says nothing for longer, in market hours, its quotes are asked for; nobody
            hears less often than once a minute.
        checked_for_s: Where none of these comes within so many seconds, it is silent.
        stale_after_s: Data older than this, in market hours, is stale.
        delayed_by_s: As much later may data of a delayed plan be.
        changed_by: A median of a chain that is so many times another of the same hour has changed.
        key_old_days: A key to a provider that is older should be made anew.
        lag_after_s: Of a probe during which our own process could not run for longer, that time is told and taken off.
        chain_again_s: While a rule of Greeks begins to breach, a chain is fetched again at once, but not sooner than so
            long after the last time.
        starved_share: Our own process is starved where it could not run for more than this share of the last minutes.
    """

    silent_after_s: float
    checked_for_s: float
    stale_after_s: float
    delayed_by_s: float
    changed_by: float
    key_old_days: float
    lag_after_s: float
    chain_again_s: float
    starved_share: float


@dataclass(frozen=True, slots=True)
class ChainLimits:
    """
    Within what a chain's figures may be off before they are told, and which contracts are judged; see reasons in
    rules.toml.

    Attributes:
        core_from, core_upto: Between which sizes of delta a quoted, unexpired contract is core.
        delta_off, gamma_times, theta_times, vega_times: How far from, or how many times, what was recomputed.
        spot_off: By so much of its price may the spot be of another moment.
        iv_off, iv_spreads: How far a volatility may be from its mid's: so much, and so many spreads.
        pair_off, pair_off_european: How far a call's and a put's deltas may be from differing by one.
        step_off: How much a delta may rise with the strike.
        unit_within: A ratio to what was recomputed, within so many times a unit's factor, is that unit.
        least_days: Of contracts that settle sooner nothing is recomputed.
        stale_after_s, greeks_stale_after_s: Quotes, and Greeks of a vendor who dates them, are stale when older.
        told_share: More than this share of the core flagged is a warning.
        cross_delta, cross_iv: How far two providers may be apart, beside what moves and spreads explain.
        missing_share: More than this share of a chain's contracts, or of those of an earlier one, missing is a part of
            the chain.
        whole_from: A chain of fewer contracts is too small to tell that.
        greeks_times: A Greek that is so many times what it was while its volatility is not is in another unit.
        band_days, band_times: An IV band needs so many days, and is so many of their median distances wide.
    """

    core_from: float
    core_upto: float
    delta_off: float
    gamma_times: float
    theta_times: float
    vega_times: float
    spot_off: float
    iv_off: float
    iv_spreads: float
    pair_off: float
    pair_off_european: float
    step_off: float
    unit_within: float
    least_days: float
    stale_after_s: float
    greeks_stale_after_s: float
    told_share: float
    cross_delta: float
    cross_iv: float
    missing_share: float
    whole_from: float
    greeks_times: float
    band_days: float
    band_times: float


@dataclass(frozen=True, slots=True)
class DiagnosisLimits:
    """
    What a diagnosis rests on.

    Attributes:
        least_probes: A cause needs so many probes, or fewer and another source that agrees.
        main_kind: Of failures of several kinds, one kind is the cause from this share on; below it the provider is
            intermittent.
        spells_below: A provider that turns between well and failing less often than this share of what chance makes
            fails in spells.
        slow_times: An app that takes so many times longer than both providers in the same minutes is slow, whatever our
            own process lost.
        chain_doubt, chain_doubt_s: By how much, and within how many seconds, the age of a chain lessens the certainty
            of no fault.
        differing: What is left of that certainty where a minute's probe has differed since.
    """

    least_probes: float
    main_kind: float
    spells_below: float
    slow_times: float
    chain_doubt: float
    chain_doubt_s: float
    differing: float


@dataclass(frozen=True, slots=True)
class DayLimits:
    """
    What is usual for a day's figures, by the trading days before.

    Attributes:
        usual_days: So many trading days back; `least_days` of them must have a figure before anything is said of it.
        beyond: Usual is what those days were, and so much of their spread more on either side; of counts at least one
            more.
        begins_s: A page that was loaded has begun to post within so many seconds.
        most_critical: Fewer alerts than this may reach critical in a week.
        least_looks: Two stretches of looks are compared from so many on each side on.
    """

    usual_days: float
    least_days: float
    beyond: float
    begins_s: float
    least_looks: float
    most_critical: float


@dataclass(frozen=True, slots=True)
class PageLimits:
    """
    How pages are told apart; the values stand in rules.toml.

    Attributes:
        load_jitter_s: Two load instants no further apart than this are the same.
        reset_gap_s: Two looks further apart than this are not taken for before and after of one refresh or reset.
        late_after: A look is late when more than this many of its page's intervals have passed without it.
        bridged_s: Between two looks of a page no further apart than this, all that it counted is known well enough.
        closed_s: A page not seen for longer than this, while one loaded since is, is closed.
        idle_times: So many of its usual gaps between two requests may a page be without one before it is silent.
        idle_most: No limit of silence is raised to more than so many times itself.
        idle_back_s: A page's usual gap is read from so many seconds before its last request.
    """

    load_jitter_s: float
    reset_gap_s: float
    late_after: float
    bridged_s: float
    closed_s: float
    idle_times: float
    idle_most: float
    idle_back_s: float
