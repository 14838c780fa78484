"""Plan notifications and deliver them through channels."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.alerting.notifications.sender import Sender
    from opslib.alerting.notifications.store import NotificationStore
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "NotificationStore": "store:NotificationStore",
            "Sender": "sender:Sender",
        },
    )

__all__ = ["NotificationStore", "Sender"]
