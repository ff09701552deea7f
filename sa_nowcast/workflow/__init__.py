"""One function per command.

`data` says what a recipe's data are, `outputs` keeps the folder of a run, `stages` does the work.
"""

from sa_nowcast.workflow.stages import RunResult, forecast_period, run, train

__all__ = ["RunResult", "forecast_period", "run", "train"]
