"""The demo's scripted trading day: what happens, what the pages post, and what is true."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.simulation.demo_day.replay import lay_out as play_demo_day
    from opslib.simulation.drills import scoreboard
    from opslib.simulation.drills.drill import drill as run_drills
    from opslib.simulation.world.control import World
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "World": "world.control:World",
            "play_demo_day": "demo_day.replay:lay_out",
            "run_drills": "drills.drill:drill",
            "scoreboard": "drills.scoreboard",
        },
    )

__all__ = ["World", "play_demo_day", "run_drills", "scoreboard"]
