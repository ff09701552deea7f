"""The page in a real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from published import VARIABLE, write_status

from sa_nowcast.derived import at

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.is_file():
        pytest.skip("no chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Any, copy: Path, serve) -> Iterator[Any]:
    """The page when it has loaded; at the end of the test nothing has failed, and nobody else was asked."""
    width, height = SIZES[request.param]
    wrong: list[str] = []
    with serve(copy) as ask:
        write_status(copy)
        context = browser.new_context(viewport={"width": width, "height": height})
        tab = context.new_page()
        here = f"http://127.0.0.1:{ask.port}/"
        tab.on("request", lambda r: None if r.url.startswith(here) else wrong.append(f"asked {r.url}"))
        tab.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        tab.goto(here)
        tab.wait_for_selector("#when small")
        tab.wait_for_selector(".leaflet-image-layer")
        yield tab
        if folder := os.environ.get("SA_NOWCAST_SCREENSHOTS"):
            tab.screenshot(path=f"{folder}/{request.node.name}.png")
        context.close()
    assert wrong == []


def _chosen(page: Any) -> tuple[float, float]:
    """The centre of the pixel that is shown, as the heading has it."""
    page.wait_for_selector("#panel:not([hidden])")
    text = page.locator("#place").inner_text()
    latitude, north, longitude, east = re.search(r"([\d.]+)° ([NS]), ([\d.]+)° ([EW])", text).groups()
    return float(latitude) * (1 if north == "N" else -1), float(longitude) * (1 if east == "E" else -1)


def _number(value: float, *, share: bool = False) -> str:
    if share:
        return f"{100 * value:.{1 if 0 < value < 0.1 else 0}f} %"
    return "<0.01" if 0 < value < 0.01 else f"{float(f'{value:.3g}'):g}"


def test_a_click_shows_the_numbers_of_the_store(page: Any, stored: xr.Dataset) -> None:
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + 0.53 * box["width"], box["y"] + 0.6 * box["height"])
    here = {"here": _chosen(page)}
    rows = _values(page)
    members = at(stored[f"{VARIABLE}_members"], here).values[:, :, 0]
    for step, time in enumerate(stored["valid_time"].values):
        row = rows[str(np.datetime64(time, "m"))[11:]]
        assert row["Mean"] == _number(float(at(stored[VARIABLE], here)[step, 0]))
        assert row["Matched"] == _number(float(at(stored[f"{VARIABLE}_matched"], here)[step, 0]))
        for i, threshold in enumerate(("1", "5")):
            assert row[f"P > {threshold} mm/h"] == _number(
                float(at(stored["probability"], here)[i, step, 0]), share=True
            )
        for share in (0.1, 0.5, 0.9):
            assert row[f"{100 * share:g} %"] == _number(float(np.quantile(members[:, step], share)))
    assert rows["00:24"]["Mean"] not in ("", "0")
    total = _number(float(at(stored["accumulation_12min"], here)[0]))
    assert f"Sum over 12 min: {total} mm" in page.locator("#sums").inner_text()
    page.locator("#slider").evaluate(
        "(slider) => { slider.value = slider.max; slider.dispatchEvent(new Event('input')); }"
    )
    mean = _number(float(at(stored[VARIABLE], here)[-1, 0]))
    assert page.locator("#now").inner_text().startswith(f"00:34 UTC: {mean} mm/h (")
    assert page.locator("#chart .band").count() == 2  # the band, and its sample in the key


def test_it_plays_from_the_history_into_the_forecast_and_around(page: Any) -> None:
    assert page.locator("#when").inner_text() == "2019-06-10 00:22 UTC observed"
    page.locator("#play").click()
    seen: list[str] = []
    for _ in range(60):
        page.wait_for_timeout(150)
        source = page.locator(".leaflet-image-layer").get_attribute("src")
        if not seen or source != seen[-1]:
            seen.append(source)
        if any("/map/precip_rate/720" in s for s in seen) and "observed" in seen[-1]:
            break
    assert sum("forecasts/" in s for s in seen) >= 5
    assert "observed" in seen[-1]
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    loaded = page.locator(".leaflet-image-layer").evaluate("(img) => img.decode().then(() => img.naturalWidth)")
    assert loaded == 128


def test_products_change_map_and_legend(page: Any) -> None:
    options = page.locator("#product option").all_inner_texts()
    assert options[:5] == ["Mean", "Matched", "Probability above 1 mm/h", "Probability above 5 mm/h", "Sum over 12 min"]
    for product, source, legend in (
        ("Probability above 5 mm/h", "/map/probability_5/120.png", "Probability above 5 mm/h (%)"),
        ("Sum over 12 min", "/map/accumulation_12min/720.png", "Sum over 12 min (mm)"),
        ("Matched", "/map/precip_rate_matched/", "Matched (mm/h)"),
    ):
        page.locator("#product").select_option(label=product)
        if "Sum" not in product:
            page.locator("#slider").evaluate(
                "(slider) => { slider.value = 12; slider.dispatchEvent(new Event('input')); }"
            )
        assert source in page.locator(".leaflet-image-layer").get_attribute("src")
        assert page.locator("#legend h2").inner_text() == legend


def test_the_keyboard_is_enough(page: Any, stored: xr.Dataset) -> None:
    page.keyboard.press(".")
    assert page.locator("#when").inner_text() == "2019-06-10 00:24 UTC forecast +2 min"
    page.keyboard.press(",")
    page.keyboard.press("p")
    assert page.locator("#product").input_value() == f"{VARIABLE}_matched"
    page.locator("#map").focus()
    page.keyboard.press("Enter")
    latitude, longitude = _chosen(page)
    assert float(stored["latitude"].min()) < latitude < float(stored["latitude"].max())
    assert float(stored["longitude"].min()) < longitude < float(stored["longitude"].max())
    page.keyboard.press(" ")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.keyboard.press(" ")
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()


def test_state_and_ages_are_seen_and_nothing_is_wider_than_the_screen(page: Any, copy: Path) -> None:
    assert page.locator("#badge").inner_text() == "✓ ok"
    assert re.fullmatch(
        r"frame 4\d s old · forecast 9\d s old|frame .* old · forecast .* old", page.locator("#ages").inner_text()
    )
    write_status(copy, state="no data", reasons=["the newest frame is 45 min old"])
    page.wait_for_selector("#badge.bad", timeout=20_000)
    assert page.locator("#badge").inner_text() == "✕ no data"
    assert page.locator("#ages").inner_text().startswith("the newest frame is 45 min old")
    assert page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0
    for name in ("#play", "#product", "#slider", "#legend"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.viewport_size["width"]


def _choose(page: Any, name: str) -> None:
    """Choose a place by the list of places, with the keyboard."""
    page.locator("#places").evaluate("(list) => { list.open = true; }")
    page.locator("#list button", has_text=name).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel:not([hidden])")


def _values(page: Any) -> dict[str, dict[str, str]]:
    page.locator("#panel summary").click()
    titles = page.locator("#values th").all_inner_texts()
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#values tr[data-time]").all()]
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def test_a_named_point_is_shown_by_its_name_with_its_published_quantiles(page: Any, copy: Path) -> None:
    page.locator(".place.point b", has_text="Munising").click()
    latitude, longitude = _chosen(page)
    assert page.locator("#place").inner_text().startswith("Munising: ")
    assert (latitude, longitude) == pytest.approx((46.41, -86.65), abs=0.0051)
    path = copy / "forecasts" / "20190610T002200Z" / "points.json"
    point = next(p for p in json.loads(path.read_text())["points"] if p["name"] == "Munising")
    rows = _values(page)
    for i, time in enumerate(point["valid_times"]):
        assert rows[time[11:16]]["Mean"] == _number(point["mean"][i])
        for share, values in point["quantiles"].items():
            assert rows[time[11:16]][f"{100 * float(share):g} %"] == _number(values[i])
    # Two bands, one within the other, and the sample of each.
    assert page.locator("#chart .band").count() == 4
    assert page.locator("#chart .band.inner").count() == 2


def test_an_area_shows_the_means_that_were_published(page: Any, copy: Path) -> None:
    _choose(page, "Cape")
    assert page.locator("#place").inner_text() == "Cape: mean over the area"
    path = copy / "forecasts" / "20190610T002200Z" / "areas.json"
    area = next(f["properties"] for f in json.loads(path.read_text())["features"] if f["properties"]["name"] == "Cape")
    rows = _values(page)
    assert len(rows) == 1 + len(area["valid_times"]) == 7
    assert rows[area["observed"]["times"][0][11:16]]["Observed"] == _number(area["observed"]["values"][0])
    for i, time in enumerate(area["valid_times"]):
        assert rows[time[11:16]]["Mean"] == _number(area["mean"][i])
        for share, values in area["quantiles"].items():
            assert rows[time[11:16]][f"{100 * float(share):g} %"] == _number(values[i])
        for threshold in ("1", "5"):
            shown = rows[time[11:16]][f"P > {threshold} mm/h"]
            assert shown == _number(area["probability"][threshold][i], share=True)
    assert page.locator("#sums").inner_text() == "Sum over 12 min: 0.25 mm"
    assert page.locator("#alerts").inner_text() == (
        "▲ above 1 mm/h: raised since 00:20 UTC; forecast from 00:24 until 00:34 or later\n\n"
        "○ above 5 mm/h: clear since 00:20 UTC"
    )


def _signs(page: Any) -> dict[str, str]:
    return {
        m.locator("b").inner_text(): f"{m.locator('i').inner_text()} {m.get_attribute('class').split()[-1]}"
        for m in page.locator(".place:has(b)").all()
    }


def test_alerts_are_told_in_the_list_and_by_signs_on_the_map(page: Any) -> None:
    page.locator("#standing", has_text="▲ 2 alerts").wait_for()
    assert page.locator("#standing").get_attribute("role") == "status"
    page.locator("#places").evaluate("(list) => { list.open = true; }")
    listed = page.locator("#list li").all_inner_texts()
    assert [text.split()[:2] for text in listed] == [["▲", "Marquette"], ["▲", "Cape"], ["○", "Munising"], ["○", "Bay"]]
    assert "raised since 00:20 UTC; the newest forecast does not reach it" in listed[0]
    assert "clear at 1, 5 mm/h" in listed[2]
    classes = {name: sign.split()[0] for name, sign in _signs(page).items()}
    assert classes == {"Marquette": "▲", "Cape": "▲", "Munising": "○", "Bay": "○"}
    widths = page.locator("path.leaflet-interactive").evaluate_all(
        "(all) => all.map((p) => p.getAttribute('stroke-width'))"
    )
    assert sorted(widths) == ["1.5", "4"]


def test_a_gap_in_data_is_never_told_as_clear(page: Any, copy: Path) -> None:
    page.locator("#places").evaluate("(list) => { list.open = true; }")
    write_status(copy, state="no data", reasons=["the newest frame is of 2019-06-10T00:22:00Z, older than 20min"])
    page.wait_for_selector("#standing:has-text('missing')", timeout=20_000)
    assert page.locator("#standing").inner_text() == "▲ 2 alerts · ? data are missing"
    text = page.locator("#list").inner_text()
    assert text.startswith("Data are missing: the newest frame is of 2019-06-10T00:22:00Z, older than 20min.")
    munising = page.locator("#list li", has_text="Munising").inner_text()
    assert munising.count("unknown, data are missing; last known: clear since 00:20 UTC") == 2
    assert "clear at" not in text
    assert {name: sign.split()[0] for name, sign in _signs(page).items()} == {
        "Marquette": "▲", "Cape": "▲", "Munising": "?", "Bay": "?",
    }  # fmt: skip
    dashes = page.locator("path.leaflet-interactive[stroke-dasharray]").count()
    assert dashes == 1


def test_without_an_answer_of_the_server_nothing_is_clear(browser: Any, copy: Path, serve) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    with serve(copy) as ask:
        write_status(copy)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{ask.port}/")
        page.wait_for_selector("#standing:text-is('▲ 2 alerts')")
    page.wait_for_selector("#standing:has-text('missing')", timeout=20_000)
    assert page.locator("#list").inner_text().startswith("Data are missing: the server does not answer.")
    assert "last known: clear since 00:20 UTC" in page.locator("#list li", has_text="Bay").inner_text()
    assert page.locator("#badge").inner_text() == "✕ no answer"
    context.close()


def test_before_the_first_forecast_the_page_says_so_and_nothing_can_be_chosen(browser: Any, copy: Path, serve) -> None:
    for name in ("forecasts", "observed.zarr"):
        shutil.rmtree(copy / name)
    for name in ("alerts.geojson", "latest"):
        (copy / name).unlink()
    context = browser.new_context(viewport={"width": 390, "height": 844})
    with serve(copy) as ask:
        write_status(copy, state="waiting", frame_age_seconds=None, forecast_age_seconds=None)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{ask.port}/")
        page.wait_for_selector("#notice:has-text('No forecast was published yet')")
        assert page.locator("#badge").inner_text() == "… waiting"
        for name in ("#play", "#slider", "#product"):
            assert page.locator(name).is_disabled()
        for name in ("#legend", "#places", "#panel"):
            assert page.locator(name).is_hidden()
    context.close()


def test_the_cross_is_there_for_keyboards_only(page: Any) -> None:
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"])
    page.wait_for_selector("#panel:not([hidden])")
    assert page.locator("#cross").is_hidden()
    page.locator("#map").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#cross").is_visible()


def test_a_new_forecast_is_shown_without_a_reload(page: Any, copy: Path) -> None:
    shutil.copytree(copy / "forecasts" / "20190610T002200Z", copy / "forecasts" / "20190610T002400Z")
    (copy / "latest").write_text("20190610T002400Z")
    page.locator("#slider").evaluate(
        "(slider) => { slider.value = slider.max; slider.dispatchEvent(new Event('input')); }"
    )
    page.wait_for_selector('.leaflet-image-layer[src*="20190610T002400Z"]', timeout=20_000, state="attached")
