"""Read option chains, price them and evaluate their Greeks."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.trading.options.chain import read as read_chain
    from opslib.trading.options.chain_quality import evaluate_chain
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "read_chain": "chain:read",
            "evaluate_chain": "chain_quality:evaluate_chain",
        },
    )

__all__ = ["evaluate_chain", "read_chain"]
