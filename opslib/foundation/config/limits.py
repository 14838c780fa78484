"""Hold the limits of rules.toml that are not alert rules: for pages, probes, chains, days and diagnosis."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """
    The limits of our own probes.

    Attributes:
        silent_after_s: If an open socket sends nothing for longer than this during market hours, quotes are requested
            on it. Every subscriber receives something at least once a minute.
        checked_for_s: If no quote arrives within this many seconds after the request, the socket is silent.
        stale_after_s: Data older than this, during market hours, is stale.
        delayed_by_s: Additional age allowed for the data of a delayed plan.
        changed_by: Factor from which a median of a chain counts as changed against another of the same hour.
        key_old_days: A key to a provider that is older should be replaced.
        lag_after_s: If our own process could not run for longer than this during a probe, that time is reported and
            subtracted.
        chain_again_s: Shortest time between two chain fetches while a Greeks rule begins to breach.
        starved_share: Our own process is starved if it could not run for more than this share of the last minutes.
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
    The tolerances for the figures of a chain, and the contracts that are evaluated; rules.toml gives the reasons.

    Attributes:
        core_from, core_upto: Range of absolute delta in which a quoted, unexpired contract is core.
        delta_off, gamma_times, theta_times, vega_times: Tolerated distance from, or ratio to, the recomputed figure.
        spot_off: Share of the price by which the spot may differ, because it is from another moment.
        iv_off, iv_spreads: Tolerated distance of a volatility from the one its mid implies: absolute, and in spreads.
        pair_off, pair_off_european: Tolerance for a call's and a put's deltas to differ by one.
        step_off: How much a delta may rise with the strike.
        unit_within: A ratio to the recomputed figure within this factor of a unit's factor counts as that unit.
        least_days: Nothing is recomputed for contracts that settle sooner.
        stale_after_s, greeks_stale_after_s: Age at which quotes, and Greeks of a vendor who dates them, are stale.
        told_share: A finding on more than this share of the core is reported.
        cross_delta, cross_iv: Tolerated difference of two providers, beyond what moves and spreads explain.
        missing_share: If more than this share of a chain's contracts, or of those of an earlier one, is missing, the
            chain is partial.
        whole_from: A chain with fewer contracts is too small to decide that.
        greeks_times: A Greek that changes by this factor while its volatility does not is in another unit.
        band_days, band_times: Days that an IV baseline needs, and its width in median absolute deviations.
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
    The limits of a diagnosis.

    Attributes:
        least_probes: A cause needs this many probes, or fewer and another source that agrees.
        main_kind: With failures of several kinds, one kind is the cause from this share on; below it the provider is
            intermittent.
        spells_below: A provider that changes state less often than this share of what chance produces fails in spells.
        slow_times: An app that takes this many times longer than both providers in the same minutes is slow, however
            much time our own process lost.
        chain_doubt, chain_doubt_s: By how much, and within how many seconds, the age of a chain reduces the confidence
            in no fault.
        differing: Factor on that confidence if a probe has shown other contracts or Greeks since.
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
    The limits for comparing a day's figures with earlier trading days.

    Attributes:
        usual_days: Number of earlier trading days; at least `least_days` of them must have the figure.
        beyond: The usual range is that of those days, extended on either side by this share of their spread; for counts
            by at least one.
        begins_s: A page that was loaded starts to post within this many seconds.
        most_critical: Fewer alerts than this may become critical in a week.
        least_looks: Snapshots that each of two compared stretches needs.
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
    The limits for telling page loads apart; their values are in rules.toml.

    Attributes:
        load_jitter_s: Two load instants no further apart than this are the same.
        reset_gap_s: Two snapshots further apart than this do not show one refresh or reset.
        late_after: A snapshot is late after this many intervals of its page.
        bridged_s: Two snapshots of a page no further apart than this cover everything that it counted between them.
        closed_s: A page without a snapshot for longer than this, while a newer page load posts, is closed.
        idle_times: A page without a request for this many of its usual gaps between requests has no data.
        idle_most: No no-data limit is raised to more than this many times itself.
        idle_back_s: A page's usual gap is measured over this many seconds before its last request.
    """

    load_jitter_s: float
    reset_gap_s: float
    late_after: float
    bridged_s: float
    closed_s: float
    idle_times: float
    idle_most: float
    idle_back_s: float
