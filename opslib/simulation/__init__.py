"""Simulate the world, play the demo day, and run the drills that prove the runbooks."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.simulation.demo_day.replay import play_day as play_demo_day
    from opslib.simulation.drills import scoreboard
    from opslib.simulation.drills.drill import run_scenarios as run_drills
    from opslib.simulation.world.control import World
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "World": "world.control:World",
            "play_demo_day": "demo_day.replay:play_day",
            "run_drills": "drills.drill:run_scenarios",
            "scoreboard": "drills.scoreboard",
        },
    )

__all__ = ["World", "play_demo_day", "run_drills", "scoreboard"]
