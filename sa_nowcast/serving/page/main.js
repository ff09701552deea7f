// The page: what is chosen (product, time, point), and what follows from it.
import { age, clock, coordinates, day, get, number, pretty, series, stamp, units } from "./api.js";
import { NowcastMap } from "./map.js";
import { chart, table } from "./meteogram.js";
import { lines, list, stateOf, summary, unanswered } from "./places.js";

const at = (id) => document.getElementById(id);
const EVERY = 10000, FRAME = 450, PAUSE = 1300;
const STATES = { "ok": ["good", "✓ ok"], "waiting": ["good", "… waiting"], "late": ["warn", "! late"], "no data": ["bad", "✕ no data"], "degraded": ["warn", "! degraded"], "stopped": ["bad", "✕ stopped"] };

const shown = { forecast: null, observed: null, layer: null, steps: [], step: 0, timer: null, point: null, asked: 0 };
const known = { places: [], standing: { missing: null, alerts: [] }, drawn: "", opened: false };
const map = new NowcastMap(at("map"), choosePoint);
let moveCursor = () => {};

// --- what there is

async function refreshState() {
  try {
    const status = await get("status");
    const [kind, text] = STATES[status.state] || ["warn", status.state];
    at("badge").className = `badge ${kind}`;
    at("badge").textContent = text;
    const ages = ["frame", "forecast"].filter((name) => typeof status[`${name}_age_seconds`] === "number")
      .map((name) => `${name} ${age(status[`${name}_age_seconds`])} old`);
    const reasons = (status.reasons || []).map((r) => typeof r === "string" ? r : JSON.stringify(r));
    at("ages").textContent = [...reasons, ...ages].join(" · ");
  } catch (error) {
    at("badge").className = "badge bad";
    at("badge").textContent = "✕ no answer";
    at("ages").textContent = error.message;
  }
}

// Before there is anything to show, nothing can be chosen.
function showEmpty(empty) {
  document.body.classList.toggle("empty", empty);
  for (const id of ["play", "slider", "product"]) at(id).disabled = empty;
}

async function refreshForecast() {
  let forecast = null, observed = null;
  try {
    observed = await get("observed");
  } catch { /* no frame yet */ }
  try {
    forecast = await get("forecasts/latest");
  } catch (error) {
    notice(error.message);
    if (!observed) return;
  }
  showEmpty(false);
  if (forecast) notice("");
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  if (same(forecast, shown.forecast) && same(observed, shown.observed)) return;
  const newer = !shown.forecast || forecast?.version !== shown.forecast.version;
  Object.assign(shown, { forecast, observed });
  await map.setBounds((forecast || observed).bounds);
  listProducts();
  layTimeline();
  if (newer) {
    await readPlaces();
    if (shown.point) await showSeries();
  }
}

function listProducts() {
  const layers = shown.forecast ? shown.forecast.layers : shown.observed.layers;
  const before = shown.layer?.id;
  at("product").replaceChildren(...layers.map((layer) => new Option(pretty(layer.title), layer.id)));
  shown.layer = layers.find((layer) => layer.id === before) || layers[0];
  at("product").value = shown.layer.id;
}

// The named points and areas of the newest forecast, with their series.
async function readPlaces() {
  const files = shown.forecast ? shown.forecast.files.map((f) => f.path) : [];
  const read = async (name) => {
    const path = files.find((f) => f.endsWith(`/${name}`));
    return path ? get(`files/${path}`).catch(() => null) : null;
  };
  const [points, areas] = await Promise.all([read("points.json"), read("areas.json")]);
  known.places = (points?.points || []).map((series, i) => ({
    key: `point/${series.name}`, kind: "point", name: series.name, series, ...shown.forecast.points[i],
  }));
  for (const feature of areas?.features || []) {
    const { name } = feature.properties;
    known.places.push({ key: `area/${name}`, kind: "area", name, series: feature.properties, feature });
  }
}

// Alerts as they stand now: they change without a new forecast too, where data are missing.
async function refreshAlerts() {
  known.standing = await get("alerts").catch(() => unanswered(known.standing));
  showPlaces();
}

function showPlaces() {
  const drawn = JSON.stringify([known.standing, shown.forecast?.version]);
  if (drawn === known.drawn) return;
  known.drawn = drawn;
  const { missing, alerts } = known.standing;
  for (const place of known.places) place.alerts = alerts.filter((a) => `${a.kind}/${a.name}` === place.key);
  at("places").hidden = !known.places.length;
  const text = summary(known.places, missing);
  if (at("standing").textContent !== text) at("standing").textContent = text;  // told aloud when it changes
  list(at("list"), known.places, missing, shown.forecast ? day(shown.forecast.init_time) : "", choosePlace);
  if (!known.opened && window.innerWidth > 700 && (missing || alerts.some((a) => a.state === "raised"))) {
    at("places").open = true;
    known.opened = true;  // whoever closes it has it closed
  }
  map.setPlaces(known.places, stateOf, choosePlace);
  showAlerts();
}

function choosePlace(place) {
  if (window.innerWidth < 1500) {  // there is no room for the list beside the series
    at("places").open = false;
    at("places").firstElementChild.focus();
  }
  if (place.kind === "point") return choosePoint(place.latitude, place.longitude, place.key);
  shown.point = { key: place.key };
  return showSeries();
}

function showAlerts() {
  const place = known.places.find((one) => one.key === shown.point?.key);
  at("alerts").replaceChildren(...(place ? lines(place.alerts, day(shown.forecast.init_time)) : []));
}

function notice(text) {
  at("notice").hidden = !text;
  at("notice").textContent = text;
}

// --- time

function layTimeline() {
  const init = shown.forecast ? Date.parse(shown.forecast.init_time) : Infinity;
  const before = shown.steps[shown.step]?.time;
  const ahead = shown.forecast ? shown.layer.times.map(Date.parse) : [];
  const history = (shown.observed?.frames || []).filter((f) => Date.parse(f.time) <= init && f.version !== "missing").slice(-Math.max(12, ahead.length));
  shown.steps = history.map((f) => ({
    time: Date.parse(f.time), lead: null, bounds: shown.observed.bounds,
    url: `observed/map/${stamp(f.time)}.png?v=${f.version}`,
  }));
  if (shown.forecast) {
    const { name, version, bounds } = shown.forecast;
    for (const time of ahead) {
      const lead = (time - init) / 1000;
      shown.steps.push({ time, lead, bounds, url: `forecasts/${name}/map/${shown.layer.id}/${lead}.png?v=${version}` });
    }
  }
  at("slider").max = Math.max(0, shown.steps.length - 1);
  const start = Math.max(0, history.length - 1);
  const same = shown.steps.findIndex((s) => s.time === before);
  drawTicks(init);
  for (const step of shown.steps) new Image().src = step.url;  // playing then waits for none
  if (!shown.layer.varies && shown.forecast) go(shown.steps.length - 1);
  else go(before === undefined || same < 0 ? start : same);
}

function drawTicks(init) {
  const last = shown.steps.length - 1;
  const wanted = window.innerWidth < 700 ? 4 : 9, each = Math.max(1, Math.ceil(last / wanted));
  const origin = shown.steps.findIndex((s) => s.time === init);
  const ticks = shown.steps.map((s, i) => [s, i]).filter(([, i]) => (i - Math.max(origin, 0)) % each === 0);
  at("ticks").replaceChildren(...ticks.map(([step, i]) => {
    const tick = document.createElement("span");
    tick.textContent = i === origin ? `${clock(step.time)} init` : clock(step.time);
    tick.className = i === origin ? "start" : "";
    tick.style.left = `${last ? 100 * i / last : 50}%`;
    return tick;
  }));
}

function go(step) {
  if (!shown.steps.length) return;
  shown.step = Math.min(Math.max(step, 0), shown.steps.length - 1);
  const { time, lead, url, bounds } = shown.steps[shown.step];
  map.show(url, bounds);
  at("slider").value = shown.step;
  showLegend(lead === null ? shown.observed.layers[0] : shown.layer);
  const kind = lead === null ? "observed" : shown.layer.varies ? `forecast +${age(lead)}`
    : lead ? `forecast, ${shown.layer.title.toLowerCase()}` : `forecast, ${shown.layer.about}`;
  const small = document.createElement("small");
  small.textContent = ` ${kind}`;
  at("when").replaceChildren(`${day(time)} ${clock(time)} UTC`, small);
  at("slider").setAttribute("aria-valuetext", `${clock(time)} UTC, ${kind}`);
  showNow();
}

function play(on) {
  clearTimeout(shown.timer);
  shown.timer = null;
  at("play").setAttribute("aria-pressed", on);
  at("play").setAttribute("aria-label", on ? "Pause" : "Play");
  at("play").firstElementChild.textContent = on ? "❚❚" : "▶";
  if (!on) return;
  const next = () => {
    const end = shown.step === shown.steps.length - 1;
    go(end ? 0 : shown.step + 1);
    shown.timer = setTimeout(next, shown.step === shown.steps.length - 1 ? PAUSE : FRAME);
  };
  shown.timer = setTimeout(next, FRAME);
}

// --- legend

function showLegend(layer) {
  if (layer === shown.legend) return;
  shown.legend = layer;
  const { title, units: unit, kind, scale } = layer;
  const head = document.createElement("h2"), classes = document.createElement("div");
  const text = kind === "probability" ? "%" : kind === "time" ? "min after the init time" : units(unit);
  head.textContent = pretty(text ? `${title} (${text})` : title);
  classes.className = "classes";
  scale.levels.forEach((level, i) => {
    const one = document.createElement("span");
    one.style.borderTopColor = scale.colours[i];
    one.textContent = kind === "probability" ? Math.round(100 * level) : Number(level.toPrecision(6));
    classes.append(one);
  });
  const missing = document.createElement("p"), sample = document.createElement("i");
  missing.className = "missing";
  missing.append(sample, "no value");
  at("legend").replaceChildren(head, classes, ...(scale.missing ? [missing] : []));
}

// --- the point

async function choosePoint(lat, lon, key = null) {
  shown.point = { lat, lon, key };
  await showSeries();
}

async function showSeries() {
  const { lat, lon, key } = shown.point, asked = ++shown.asked;
  const place = known.places.find((one) => one.key === key);
  if (place?.kind === "area") return drawSeries(ofArea(place.series), seenOver(place.series), place);
  if (lat === undefined) return closePanel();  // an area that is no longer published
  try {
    const instance = shown.forecast && `forecast/instances/${shown.forecast.name}`;
    const [ahead, seen] = await Promise.all([
      instance ? series(instance, lat, lon) : { parameters: {} },
      shown.observed ? series("observed", lat, lon) : { parameters: {} },
    ]);
    if (asked !== shown.asked) return;  // another point was chosen meanwhile
    notice("");
    drawSeries(ahead, seen, place);
  } catch (error) {
    if (asked === shown.asked) notice(error.message);
  }
}

// The means over an area as they are published, like the answer for a position.
function ofArea(published) {
  const times = published.valid_times.map(Date.parse), parameters = {};
  for (const { id, kind } of shown.forecast.layers) {
    const own = kind === "value" ? published.mean : kind === "matched" ? published.matched
      : kind === "probability" ? published.probability?.[id.split("_").pop()]
        : kind === "amount" ? published.accumulation?.[id.split("_").pop()] : null;
    if (Array.isArray(own)) parameters[id] = { times, values: own };
    else if (typeof own === "number") parameters[id] = { times: times.slice(-1), values: [own] };
  }
  return { parameters };
}

// The observed means over an area, of the frames that the forecast is from.
function seenOver({ observed }) {
  return { parameters: observed ? { observed: { times: observed.times.map(Date.parse), values: observed.values } } : {} };
}

function drawSeries(ahead, seen, place) {
  const layers = shown.forecast ? shown.forecast.layers : [];
  const of = (kind) => layers.find((l) => l.kind === kind);
  const found = (layer) => layer && ahead.parameters[layer.id];
  const published = Object.entries(place?.series.quantiles || {});  // of named points without members too; of areas by members
  const quantiles = published.length
    ? published.map(([share, values]) => [Number(share), { times: place.series.valid_times.map(Date.parse), values }]).sort((a, b) => a[0] - b[0])
    : (shown.forecast?.quantiles || []).map((id) => [Number(id.split("_").pop()), ahead.parameters[id]]).filter(([, one]) => one);
  const init = shown.forecast ? Date.parse(shown.forecast.init_time) : 0;
  const past = Object.values(seen.parameters)[0];
  const recent = past && limited(past, init ? init - Math.max(36e5, Date.parse(layers[0].times.at(-1)) - init) : 0);
  const lines = { seen: recent, mean: found(of("value")), matched: found(of("matched")), quantiles };
  const { units: unit, scale } = layers[0] || shown.observed.layers[0];
  const columns = [["Observed", "value", recent], ["Mean", "value", lines.mean], ["Matched", "value", lines.matched]];
  for (const [share, one] of quantiles) columns.push([`${Number((100 * share).toPrecision(4))} %`, "value", one]);
  for (const layer of layers.filter((l) => l.kind === "probability")) {
    columns.push([pretty(layer.title).replace("Probability above", "P >"), "probability", found(layer)]);
  }
  const where = ahead.lat === undefined ? seen : ahead;
  const text = where.lat === undefined ? "mean over the area" : coordinates(where.lat, where.lon);
  map.setMark(where.lat ?? null, where.lon, place?.kind === "area" ? place.key : null, Boolean(place));
  at("panel").hidden = false;
  at("place").textContent = place ? `${place.name}: ${text}` : text;
  showAlerts();
  moveCursor = chart(at("chart"), lines, unit, init, !scale.below);
  table(at("values"), columns.filter((c) => c[2]));
  at("sums").textContent = layers.filter((l) => !l.varies && found(l)).map((l) => {
    const value = found(l).values[0];
    if (l.kind === "time") return `${pretty(l.about)}: ${value === null ? "none" : `${number(value, "time")} min`}`;
    return `${l.title}: ${number(value, l.kind)} ${units(l.units)}`;
  }).join(" · ");
  shown.lines = { ...lines, unit, found };
  showNow();
  map.resized();
}

function limited(one, begin) {
  const kept = one.times.map((t, i) => [t, one.values[i]]).filter(([t]) => t >= begin);
  return { times: kept.map((p) => p[0]), values: kept.map((p) => p[1]) };
}

// The value of the point at the time of the slider, of the product that the map shows.
function showNow() {
  if (!shown.lines || at("panel").hidden || !shown.steps.length) return;
  const { time, lead } = shown.steps[shown.step];
  const value = (one) => one?.values[one.times.indexOf(time)];
  const unit = units(shown.lines.unit);
  const line = lead === null ? shown.lines.seen : shown.lines[shown.layer.kind === "matched" ? "matched" : "mean"];
  let text = line ? `${clock(time)} UTC: ${number(value(line))} ${unit}` : `${clock(time)} UTC: before the forecast`;
  const [low, high] = [shown.lines.quantiles[0], shown.lines.quantiles.at(-1)];
  if (lead !== null && low && value(low[1]) !== undefined) text += ` (${number(value(low[1]))} to ${number(value(high[1]))})`;
  if (lead !== null && shown.layer.kind === "probability") {
    const chance = number(value(shown.lines.found(shown.layer)), "probability");
    text = `${clock(time)} UTC: ${pretty(shown.layer.title).toLowerCase()} ${chance}`;
  }
  at("now").textContent = text;
  moveCursor(time);
  for (const row of at("values").querySelectorAll("tr[data-time]")) row.classList.toggle("current", Number(row.dataset.time) === time);
}

function closePanel() {
  at("panel").hidden = true;
  shown.point = null;
  map.setMark(null);
  map.resized();
}

// --- controls

at("product").addEventListener("change", () => {
  shown.layer = shown.forecast.layers.find((layer) => layer.id === at("product").value);
  layTimeline();
});
at("slider").addEventListener("input", () => { play(false); go(Number(at("slider").value)); });
at("play").addEventListener("click", () => play(!shown.timer));
at("close").addEventListener("click", closePanel);
window.addEventListener("resize", () => shown.forecast && drawTicks(Date.parse(shown.forecast.init_time)));
document.addEventListener("pointerdown", () => document.body.classList.remove("keys"), true);
document.addEventListener("keydown", (event) => {
  document.body.classList.add("keys");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = ["SELECT", "INPUT", "BUTTON", "SUMMARY"].includes(event.target.tagName);
  const actions = {
    " ": () => { if (inField && event.target.id !== "slider") return; event.preventDefault(); play(!shown.timer); },
    ",": () => { play(false); go(shown.step - 1); },
    ".": () => { play(false); go(shown.step + 1); },
    "p": () => {
      if (event.target.tagName === "SELECT") return;
      at("product").selectedIndex = (at("product").selectedIndex + 1) % at("product").options.length;
      at("product").dispatchEvent(new Event("change"));
    },
    "Escape": closePanel,
  };
  actions[event.key]?.();
});

async function refresh() {
  await refreshState();
  await refreshForecast().catch((error) => notice(error.message));
  await refreshAlerts();
  setTimeout(refresh, EVERY);
}
get("service").then((service) => {
  at("name").textContent = service.name || "Nowcast";
  document.title = at("name").textContent;
}).catch(() => {});
showEmpty(true);
refresh();
