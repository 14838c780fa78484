"""Read option chains, price them and judge their Greeks."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.trading.options.chain import read as read_chain
    from opslib.trading.options.chain_quality import judge as judge_chain
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "read_chain": "chain:read",
            "judge_chain": "chain_quality:judge",
        },
    )

__all__ = ["judge_chain", "read_chain"]
