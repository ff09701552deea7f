"""Training on Lightning: losses, schedules, the module, checkpoints, `fit`."""

from typing import Final

LOG: Final = "training.csv"
"""The name of a run's log."""
