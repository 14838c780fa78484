"""Find contracts of a chain that are expired, duplicated, mislabelled or missing."""

from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.foundation.formatting import NEW_YORK

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame
else:
    Array = Any

ONE_SIDED = 0.5  # If fewer core contracts than this share have their counterpart, the feed lists only one side.
HOLE = 1.9  # Factor on the distance between the neighbouring strikes.
ONE_HOLE = 0.8  # Share of the missing strikes.
MANY = 5  # Missing strikes beyond the last listed one of an expiration, although that one is traded.


class Grid(NamedTuple):
    """
    The position of each row of a chain among the others.

    Attributes:
        root: Its root and time, as a number.
        group: Its expiration within these; the next number is the next expiration.
        strike, call: Its strike in dollars, and whether it is a call.
        order: Rows by group, strike and side, calls first; equal ones in file order.
    """

    root: Array
    group: Array
    strike: Array
    call: Array
    order: Array


def grid(frame: "DataFrame", call: Array) -> Grid:
    """Compute the positions of the rows; `call` says which rows count as calls, whatever they are listed as."""
    import numpy as np

    def by(*names: str) -> Array:
        return frame.groupby(list(names), sort=True, observed=True).ngroup().to_numpy()

    group, strike = by("root", "as_of", "expiry"), frame["strike"].to_numpy(dtype=float)
    return Grid(by("root", "as_of"), group, strike, call, np.lexsort((~call, strike, group)))


def expired(frame: "DataFrame") -> Array:
    """
    Return the contracts that settled on an earlier day and are still listed.

    Those of the day itself are listed until its end.
    """
    late = frame["expiry"] < frame["as_of"]
    days = [frame.loc[late, name].dt.tz_convert(NEW_YORK).dt.date for name in ("expiry", "as_of")]
    late.loc[late] = (days[0] < days[1]).to_numpy()
    return late.to_numpy(dtype=bool)


def repeated(grid: Grid, multiplier: Array, among: Array) -> Array:
    """Return the rows that list a contract again; an adjusted contract is a different one."""
    import numpy as np

    size = np.nan_to_num(multiplier, nan=100.0)
    rows = grid.order[among[grid.order]]
    first, second = rows[:-1], rows[1:]
    same = (
        (grid.group[first] == grid.group[second])
        & (grid.strike[first] == grid.strike[second])
        & (grid.call[first] == grid.call[second])
        & (size[first] == size[second])
    )
    found = np.zeros(len(among), dtype=bool)
    found[second[same]] = True
    return found


def mislabelled(grid: Grid, wrong: Array) -> Array:
    """
    Return the contracts that are listed under the other side.

    Their figures are those of the other side, they duplicate a listed contract, and their own contract is missing.
    """
    import numpy as np

    found, rows = np.zeros(len(wrong), dtype=bool), np.flatnonzero(wrong)
    if not len(rows):
        return found

    def place(i: "np.intp", call: bool) -> tuple[int, float, bool]:
        return (int(grid.group[i]), float(grid.strike[i]), bool(call))

    touched = np.flatnonzero(~wrong & np.isin(grid.strike, grid.strike[rows]))
    listed = {place(i, grid.call[i]) for i in touched}
    found[rows] = [place(i, grid.call[i]) in listed and place(i, not grid.call[i]) not in listed for i in rows]
    return found


def missing_contracts(
    grid: Grid, listed: Array, core: Array, elsewhere: set[tuple[int, float, bool]]
) -> list[tuple[int, float, bool]]:
    """
    Return the missing contracts of the core, if the chain lists both sides and their neighbours.

    Args:
        listed: Rows without a fault in what they name.
        core: Which of all rows are tradable.
        elsewhere: Contracts listed under a wrong expiration or strike: root, strike, and whether a call.

    Returns:
        For each the group, the strike, and whether it is a call.
    """
    import numpy as np

    rows = grid.order[listed[grid.order]]
    if not len(rows):
        return []
    group, strike = grid.group[rows], grid.strike[rows]
    starts = np.flatnonzero(np.concatenate([[True], (group[1:] != group[:-1]) | (strike[1:] != strike[:-1])]))
    calls, puts, traded = (np.logical_or.reduceat(what[rows], starts) for what in (grid.call, ~grid.call, core))
    cells = Cells(grid.root[rows][starts], group[starts], strike[starts], traded)
    core_cells = cells.core
    if not core_cells.any() or (calls & puts)[core_cells].mean() < ONE_SIDED:
        return []
    alone = np.flatnonzero(core_cells & (calls != puts))
    gone = [(int(cells.root[i]), int(cells.group[i]), float(cells.strike[i]), not bool(calls[i])) for i in alone]
    gone += [(root, group, k, call) for root, group, k in _holes(cells, elsewhere) for call in (True, False)]
    return [(group, k, call) for root, group, k, call in gone if (root, k, call) not in elsewhere]


class Cells(NamedTuple):
    """Each strike of each expiration that is listed: its root and group, and whether it has a core contract."""

    root: Array
    group: Array
    strike: Array
    core: Array


def _holes(cells: Cells, elsewhere: set[tuple[int, float, bool]]) -> list[tuple[int, int, float]]:
    """
    Return strikes that both neighbouring expirations list and the one between them does not.

    They count if they leave one hole between its own strikes, or if its strikes end short of the money. Scattered
    missing strikes were never listed: exchanges do not list every strike for every expiration.
    """
    import numpy as np

    found = []
    groups, starts = np.unique(cells.group, return_index=True)
    ends = np.append(starts[1:], len(cells.group))
    moved: dict[int, list[float]] = {}
    for root, k, _ in elsewhere:
        moved.setdefault(root, []).append(k)
    for i in _suspects(cells, groups, starts):
        lo, hi = starts[i], ends[i]
        root = int(cells.root[lo])
        own = cells.strike[lo:hi]
        before, after = (cells.strike[starts[j] : ends[j]] for j in (i - 1, i + 1))
        traded = cells.strike[starts[i - 1] : ends[i + 1]][cells.core[starts[i - 1] : ends[i + 1]]]
        missing = np.setdiff1d(np.intersect1d(before, after), own)
        if len(own) < 4 or not len(missing):
            continue
        gaps, at = np.diff(own), np.searchsorted(own, missing)
        for j in np.unique(at):  # Between the strikes j - 1 and j; at either end, beyond all strikes.
            hole = missing[at == j]
            core = hole[(hole >= traded.min()) & (hole <= traded.max())] if len(traded) else hole[:0]
            if 1 < j < len(own) - 1:
                lost = gaps[j - 1] >= HOLE * max(gaps[j - 2], gaps[j]) and (len(core) or len(hole) >= MANY)
            else:
                lost = j in (0, len(own)) and len(core) >= MANY and bool(cells.core[lo if j == 0 else hi - 1])
            lost = lost and (at == j).mean() >= ONE_HOLE
            truly = np.setdiff1d(hole, moved.get(root, []))  # A contract under a wrong name is not missing.
            found += [(root, int(groups[i]), float(k)) for k in truly] if lost and len(truly) > len(hole) / 2 else []
    return found


def _suspects(cells: Cells, groups: Array, starts: Array) -> list[int]:
    """
    Return the expirations that lack strikes which the expirations before and after them list.

    As positions in `groups`.
    """
    import numpy as np

    across = np.lexsort((cells.group, cells.strike, cells.root))
    one, two = across[:-1], across[1:]
    skipped = (
        (cells.root[one] == cells.root[two])
        & (cells.strike[one] == cells.strike[two])
        & (cells.group[two] - cells.group[one] == 2)
    )
    middle = np.unique(cells.group[one[skipped]] + 1)
    return [
        int(i)
        for i in np.flatnonzero(np.isin(groups, middle))
        if 0 < i < len(groups) - 1 and cells.root[starts[i - 1]] == cells.root[starts[i]] == cells.root[starts[i + 1]]
    ]
