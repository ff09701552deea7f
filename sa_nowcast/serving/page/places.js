// Named points and areas: the list of them with their alerts, in words. What is missing is never told as clear.
import { clock, day, units } from "./api.js";

export const SIGNS = { raised: "▲", unknown: "?", clear: "○" };
const ORDER = ["raised", "unknown", "clear"];

const when = (text, today) => day(text) === today ? clock(text) : `${day(text)} ${clock(text)}`;
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

// The state of a place is the gravest of its thresholds.
export function stateOf(alerts) {
  return ORDER.find((state) => alerts.some((alert) => alert.state === state)) || null;
}

// What is known of an alert, in one line.
export function told(alert, today) {
  const head = `${SIGNS[alert.state]} above ${alert.threshold} ${units(alert.units || "")}: ${alert.state}`;
  const since = (one) => one?.since ? ` since ${when(one.since, today)} UTC` : "";
  if (alert.state === "unknown") {
    return `${head}${since(alert)}, data are missing; ${alert.last ? `last known: ${alert.last.state}${since(alert.last)}` : "never known"}`;
  }
  if (alert.state === "clear") return head + since(alert);
  const span = alert.reached;
  if (!span) return `${head}${since(alert)}; the newest forecast does not reach it`;
  const until = span.open ? `${when(span.until, today)} or later` : when(span.until, today);
  return `${head}${since(alert)}; forecast from ${when(span.from, today)} until ${until}`;
}

// The line above the list.
export function summary(places, missing) {
  const states = places.flatMap((place) => place.alerts.map((alert) => alert.state));
  const count = (state) => states.filter((one) => one === state).length;
  const raised = count("raised"), unknown = count("unknown");
  const parts = [];
  if (raised) parts.push(`${SIGNS.raised} ${plural(raised, "alert")}`);
  if (missing && states.length) parts.push("? data are missing");
  else if (unknown) parts.push(`? ${unknown} unknown`);
  if (!parts.length && states.length) parts.push(`${SIGNS.clear} no alert`);
  return parts.join(" · ") || plural(places.length, "place");
}

// Without an answer of the server nothing is clear either; what it said last is the last that is known.
export function unanswered(standing) {
  return {
    missing: "the server does not answer",
    alerts: standing.alerts.map((alert) => alert.state !== "clear" ? alert
      : { ...alert, state: "unknown", since: null, last: { state: alert.state, since: alert.since } }),
  };
}

// `places`: [{key, kind, name, alerts}]; a choice calls `choose(place)`.
export function list(element, places, missing, today, choose) {
  const rank = (place) => { const at = ORDER.indexOf(stateOf(place.alerts)); return at < 0 ? ORDER.length : at; };
  const items = places.map((place, i) => [place, i]).sort((a, b) => rank(a[0]) - rank(b[0]) || a[1] - b[1]).map(([place]) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `${SIGNS[stateOf(place.alerts)] || "•"} ${place.name}`;
    button.dataset.key = place.key;
    button.addEventListener("click", () => choose(place));
    item.className = stateOf(place.alerts) || "";
    item.append(button, ...lines(place.alerts.filter((a) => a.state === stateOf(place.alerts)), today));
    return item;
  });
  const text = document.createElement("p");
  text.textContent = missing ? `Data are missing: ${missing}.` : "";
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const made = document.createElement("ul");
  made.append(...items);
  element.replaceChildren(...(missing ? [text] : []), made);
  if (focused) [...element.querySelectorAll("button")].find((b) => b.dataset.key === focused)?.focus();
}

// Lines of a place's alerts; a place that is clear at all thresholds is told in one.
export function lines(alerts, today) {
  const line = (text, className) => Object.assign(document.createElement("p"), { textContent: text, className });
  if (alerts.length && alerts.every((alert) => alert.state === "clear")) {
    const [first] = alerts;
    return [line(`${SIGNS.clear} clear at ${alerts.map((a) => a.threshold).join(", ")} ${units(first.units || "")}`, "clear")];
  }
  return alerts.map((alert) => line(told(alert, today), alert.state));
}
