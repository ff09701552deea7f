"""Take the pictures of the page of `sa-nowcast serve` that the documentation shows: one at rest, and one that plays.

    apt-get install chromium && pip install playwright pillow
    python tools/page_pictures.py docs/images

The sample that ships plays the radar of a service, with two points and two areas, whose clock stands still; its page is
stepped through in headless Chromium. Written are ``page.png`` (1280 × 800) and ``page.webp``, which plays.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import sa_nowcast
from sa_nowcast.operations import watch
from sa_nowcast.recipe import find_recipe, read_service
from sa_nowcast.recipe.service import ServiceRecipe
from sa_nowcast.serving.folder import Published
from sa_nowcast.serving.running import bind, server

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FRAMES, PLAYED, SHOWN = 19, (960, 600), (1280, 800)
FRAME, PAUSE = 330, 1500  # ms
REGION = {"latitude": [45.6, 47.0], "longitude": [-87.6, -84.4]}
POINTS = [
    {"name": "St. Ignace", "latitude": 45.87, "longitude": -84.73},
    {"name": "Munising", "latitude": 46.41, "longitude": -86.65},
]
AREAS = {
    "Tahquamenon": [[-85.7, 46.35], [-85.3, 46.25], [-84.95, 46.35], [-85.05, 46.6], [-85.4, 46.65], [-85.7, 46.35]],
    "Manistique": [[-86.5, 46.4], [-86.0, 46.4], [-85.95, 46.15], [-86.2, 45.98], [-86.5, 46.15], [-86.5, 46.4]],
}


def recipe(work: Path) -> ServiceRecipe:
    """Return the recipe of a service for which the frames lie there, 40 s after the last one."""
    incoming = work / "incoming"
    incoming.mkdir()
    frames = sa_nowcast.open_sample("mrms")[["precip_rate"]].isel(time=slice(0, FRAMES)).load()
    frames["precip_rate"].encoding = {}
    for number, when in enumerate(frames["time"].values):
        frames.isel(time=[number]).to_netcdf(incoming / f"{pd.Timestamp(when):%Y%m%d%H%M}.nc")
    outlines = [
        {"type": "Feature", "properties": {"name": n}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for n, ring in AREAS.items()
    ]
    (work / "areas.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": outlines}))
    told = read_service(find_recipe("service"), [f"arrivals.source={incoming}", f"output.folder={work / 'published'}"])
    origin = str(pd.Timestamp(frames["time"].values[-1]) + pd.Timedelta("40s")).replace(" ", "T")
    changed: dict[str, Any] = told.model_dump(mode="json") | {
        "name": "Upper Michigan", "points": POINTS, "areas": str(work / "areas.geojson"), "areas_name": "name",
        "quantiles": [0.1, 0.25, 0.5, 0.75, 0.9], "max_age": "3min",
        "clock": {"origin": origin, "began": time.time(), "speed": 0.001},
    }  # fmt: skip
    changed["arrivals"]["region"] = REGION
    changed["verification"]["bound"] = -1  # one forecast of two minutes is verified, which says little of skill
    return ServiceRecipe.model_validate(changed)


def settled(page: Page) -> None:
    """Wait until the map's picture is there."""
    page.locator(".leaflet-image-layer").evaluate("(img) => img.decode()")
    page.wait_for_timeout(120)


def take(page: Page, target: Path) -> None:
    """Take both pictures of a page that has loaded."""
    page.locator("#list button", has_text=str(POINTS[0]["name"])).evaluate("(button) => button.click()")
    page.wait_for_selector("#chart .band")
    settled(page)
    still = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    still.convert("P", palette=Image.Palette.ADAPTIVE, colors=200).save(target / "page.png", optimize=True)
    last = int(page.locator("#slider").get_attribute("max") or 0)
    start = int(page.locator("#slider").input_value())
    shots, pauses = [], []
    for step in range(last + 1):
        page.locator("#slider").evaluate(
            "(slider, step) => { slider.value = step; slider.dispatchEvent(new Event('input')); }", step
        )
        settled(page)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shots.append(shot.resize(PLAYED, Image.Resampling.LANCZOS))
        pauses.append(PAUSE if step in (start, last) else FRAME)
    shots[0].save(
        target / "page.webp", save_all=True, append_images=shots[1:], duration=pauses, loop=0, quality=60, method=4
    )
    print(f"page.webp: {len(shots)} frames, {(target / 'page.webp').stat().st_size // 1000} kB")


def main() -> None:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name, bind("127.0.0.1", 0) as bound:
        told, stop = recipe(Path(name)), threading.Event()
        service = threading.Thread(target=watch, args=(told,), kwargs={"stop": stop, "report": print})
        service.start()
        folder = Path(name) / "published"
        while (
            not (folder / "latest").exists() or json.loads((folder / "status.json").read_text())["idle_since"] is None
        ):
            time.sleep(0.5)
        running = server(Published(folder), rate=0)
        serving = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        serving.start()
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page = browser.new_page(viewport={"width": SHOWN[0], "height": SHOWN[1]})
                page.goto(f"http://127.0.0.1:{bound.getsockname()[1]}/")
                page.wait_for_selector("#list li", state="attached", timeout=120_000)
                take(page, target)
                browser.close()
        finally:
            running.should_exit = True
            stop.set()
            serving.join()
            service.join()


if __name__ == "__main__":
    main()
