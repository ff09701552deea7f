"""Keep a small model of this version, what it forecasts from, and its forecast: later versions must give the same.

Run once for a release, with nothing changed since; it refuses to replace what was kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent.parent
sys.path.insert(0, str(HERE / "tests"))


def main() -> None:
    from sequences import NETWORK, OPTIONS, rain

    from sa_nowcast import __version__
    from sa_nowcast.training.fit import fit

    folder = HERE / "tests" / "data" / "bundles" / __version__
    if folder.exists():
        sys.exit(f"{folder} is there already")
    folder.mkdir(parents=True)
    data = rain()
    nowcaster = fit(data, history=4, steps=3, network=NETWORK, progress=False, **OPTIONS)
    nowcaster.save(folder / "rain.nowcaster")
    history = data.isel(time=slice(-4, None))
    np.save(folder / "history.npy", history.values)
    np.save(folder / "forecast.npy", nowcaster.forecast(history, device="cpu").values)


if __name__ == "__main__":
    main()
