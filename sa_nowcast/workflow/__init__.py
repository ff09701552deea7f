"""One function per command.

`data` says what a recipe's data are, `outputs` keeps the folder of a run, `stages` does the work with `period`,
`scoring` and `pictures`.
"""

from sa_nowcast.workflow.period import forecast_period
from sa_nowcast.workflow.stages import RunResult, run, train

__all__ = ["RunResult", "forecast_period", "run", "train"]
