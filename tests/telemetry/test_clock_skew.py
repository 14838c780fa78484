"""
Decide whose clock is wrong: one party, several, all of them, in both directions, and with too few clocks to decide.
"""

import pytest

from opslib.telemetry.clock_skew import Clocks, compare

LIMIT_S = 30.0
WELL = {"massive": 0.3, "tradier": -0.5, "app": 0.0, "page": 2.4}


@pytest.mark.parametrize("by_s", [600.0, -600.0, 45.0, -45.0])
@pytest.mark.parametrize("party", WELL)
def test_one_wrong_clock(party: str, by_s: float) -> None:
    """A clock that is off while the others agree with ours is named; ours is not."""
    found = compare(WELL | {party: by_s}, LIMIT_S)
    assert found == Clocks(0.0, {party: by_s}, True)


@pytest.mark.parametrize("by_s", [600.0, -600.0])
def test_our_clock_is_wrong(by_s: float) -> None:
    """If all parties agree with each other and not with us, our clock is off, in the other direction."""
    found = compare({party: by_s + own for party, own in WELL.items()}, LIMIT_S)
    assert found.ours_s == pytest.approx(-by_s, abs=1.5) and (found.off, found.sure) == ({}, True)


@pytest.mark.parametrize(
    ("skews", "expected"),
    [
        ({}, Clocks(0.0, {}, True)),
        (WELL, Clocks(0.0, {}, True)),
        # Each is within the limit of our clock, though not of the other.
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
        ({"massive": 600.0}, Clocks(0.0, {"massive": 600.0}, False)),  # One against one: undecidable.
        ({"massive": 600.0, "tradier": -600.0}, Clocks(0.0, {"massive": 600.0, "tradier": -600.0}, False)),
        ({"massive": 600.0, "page": 600.0, "app": 0.0}, Clocks(0.0, {"massive": 600.0, "page": 600.0}, False)),
        ({"massive": 600.0, "app": 600.0}, Clocks(-600.0, {}, True)),
    ],
)
def test_several_parties(skews: dict[str, float], expected: Clocks) -> None:
    """
    The time that most parties share is right. A tie goes to the two providers if they agree, else to us, and is marked
    as not sure.
    """
    assert compare(skews, LIMIT_S) == expected
