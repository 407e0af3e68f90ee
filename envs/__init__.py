"""What tuning is: hyperparameters, signals, trainings and the Gymnasium environments over them.

Importing this package registers `metatuner/Schedule-v0` and `metatuner/Search-v0` with Gymnasium.
"""

from __future__ import annotations

import gymnasium

if "metatuner/Schedule-v0" not in gymnasium.registry:
    gymnasium.register(id="metatuner/Schedule-v0", entry_point="metatuner.envs.schedule:ScheduleEnv")
if "metatuner/Search-v0" not in gymnasium.registry:
    gymnasium.register(id="metatuner/Search-v0", entry_point="metatuner.envs.search:SearchEnv")
