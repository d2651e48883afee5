"""What is done to the server, one scenario after the other. Each does it once; the rig repeats it as long as asked.

A scenario promises nothing by itself: the players, the history of every row and the people who ask are watched
throughout (`tests.chaos.stage`). Where more is promised, such as that nothing is acknowledged while Redis is away, the
scenario looks.
"""

from tests.chaos.scenarios import players, postgres, processes, redis
from tests.chaos.scenarios.registry import SCENARIOS, Scenario

__all__ = ["SCENARIOS", "Scenario", "players", "postgres", "processes", "redis"]
