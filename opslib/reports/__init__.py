"""Make reports and postmortems, and verify them against their evidence."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.reports import daily, periodic, postmortem
    from opslib.reports.publishing import publish_daily, publish_review
    from opslib.reports.verification import verify
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "daily": "daily",
            "periodic": "periodic",
            "postmortem": "postmortem",
            "publish_daily": "publishing:publish_daily",
            "publish_review": "publishing:publish_review",
            "verify": "verification:verify",
        },
    )

__all__ = ["daily", "periodic", "postmortem", "publish_daily", "publish_review", "verify"]
