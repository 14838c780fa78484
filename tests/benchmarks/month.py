"""Generate a month of posts every five seconds, quickly: one page load a day, with steady counters."""

import json
from datetime import timedelta

from opslib.foundation import clock, time_parsing
from opslib.foundation.storage.database import Database
from opslib.simulation.demo_day import replay
from opslib.simulation.world import page
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore

EVERY_S = 5
PER_DAY = 86_400 // EVERY_S


def template() -> dict:
    """Return one post of the scripted day."""
    return next(p.body for i, p in enumerate(page.posts(replay._session_script(replay.DAY, 1))) if i == 2000)


def fill(store: Database, app: str, days: int) -> int:
    """
    Write days of posts, one every five seconds around the clock, ending with the scripted day; return their number.
    """
    end = time_parsing.parse(f"{replay.DAY}T16:00")
    total = days * PER_DAY
    text = json.dumps(template())
    for start in range(0, total, 5000):
        posts = []
        for i in range(start, min(start + 5000, total)):
            at = end - timedelta(seconds=EVERY_S * (total - 1 - i))
            of_page = i % PER_DAY
            body = json.loads(text)
            body["lastUpdateAt"] = int(at.timestamp() * 1000)
            body["systemHealth"]["uptime"] = of_page * EVERY_S
            body["providers"]["massive"] |= {
                "requestCount": of_page * 3,
                "successCount": of_page * 3 - of_page // 200,
                "failureCount": of_page // 200,
            }
            body["greeksQuality"] |= {"totalTrades": of_page * 2, "validGreeks": of_page * 2 - of_page // 50}
            posts.append(Post(clock.micros(at), snapshot.read(body)))
        SnapshotStore(store).write(app, posts, known_at_ts=True)
    return total
