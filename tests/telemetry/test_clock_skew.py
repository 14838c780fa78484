"""Whose clock is off: each party alone, several, all together, both directions, and too few to say."""

import pytest

from opslib.telemetry.clock_skew import Clocks, compare

LIMIT_S = 30.0
WELL = {"massive": 0.3, "tradier": -0.5, "app": 0.0, "page": 2.4}


@pytest.mark.parametrize("by_s", [600.0, -600.0, 45.0, -45.0])
@pytest.mark.parametrize("party", WELL)
def test_one_party_alone(party: str, by_s: float) -> None:
    """One whose clock is off, while the others agree with us, is named; ours is not."""
    found = compare(WELL | {party: by_s}, LIMIT_S)
    assert found == Clocks(0.0, {party: by_s}, True)


@pytest.mark.parametrize("by_s", [600.0, -600.0])
def test_all_against_us(by_s: float) -> None:
    """Where all parties agree with each other and not with us, it is our clock, in the other direction."""
    found = compare({party: by_s + own for party, own in WELL.items()}, LIMIT_S)
    assert found.ours_s == pytest.approx(-by_s, abs=1.5) and (found.off, found.sure) == ({}, True)


@pytest.mark.parametrize(
    ("skews", "expected"),
    [
        ({}, Clocks(0.0, {}, True)),
        (WELL, Clocks(0.0, {}, True)),
        # Within the limit of ours, though not of each other.
        ({"massive": 29.0, "tradier": -29.0}, Clocks(0.0, {}, True)),
        (
            {"massive": 600.0, "tradier": 600.0, "app": 0.0, "page": 0.0},
            Clocks(0.0, {"massive": 600.0, "tradier": 600.0}, True),
        ),
        ({"massive": 600.0, "tradier": -600.0, "app": 0.0}, Clocks(0.0, {"massive": 600.0, "tradier": -600.0}, True)),
        # The page runs on our machine.
        ({"massive": 600.0, "tradier": 600.0, "app": 600.0, "page": 0.0}, Clocks(-600.0, {"page": -600.0}, True)),
        # Two against two: providers share no error, but that is not sure.
        ({"massive": -600.0, "tradier": -600.0, "app": 0.0}, Clocks(600.0, {"app": 600.0}, False)),
        ({"massive": 600.0, "tradier": 600.0}, Clocks(-600.0, {}, True)),
        ({"massive": 600.0}, Clocks(0.0, {"massive": 600.0}, False)),  # One against one: nothing decides.
        ({"massive": 600.0, "tradier": -600.0}, Clocks(0.0, {"massive": 600.0, "tradier": -600.0}, False)),
        ({"massive": 600.0, "page": 600.0, "app": 0.0}, Clocks(0.0, {"massive": 600.0, "page": 600.0}, False)),
        ({"massive": 600.0, "app": 600.0}, Clocks(-600.0, {}, True)),
    ],
)
def test_several_parties(skews: dict[str, float], expected: Clocks) -> None:
    """The time that most share is right; a tie goes to both providers, else to us, and is not sure."""
    assert compare(skews, LIMIT_S) == expected
