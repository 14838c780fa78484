"""Read fills, match them into round trips and compute costs and results."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.trading.pnl.pnl import of as result_of
    from opslib.trading.pnl.reader import read as read_fills
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "read_fills": "reader:read",
            "result_of": "pnl:of",
        },
    )

__all__ = ["read_fills", "result_of"]
