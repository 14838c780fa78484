"""Show the state of an app at a moment: panels, charts, details, the live view."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.dashboard import doctor, status
    from opslib.dashboard.live import Live
    from opslib.dashboard.panels import Panel
    from opslib.dashboard.status import Status
    from opslib.dashboard.text_blocks import TextBlock
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "Live": "live:Live",
            "Panel": "panels:Panel",
            "Status": "status:Status",
            "TextBlock": "text_blocks:TextBlock",
            "doctor": "doctor",
            "status": "status",
        },
    )

__all__ = ["Live", "Panel", "Status", "TextBlock", "doctor", "status"]
