// What is asked of the server, and how numbers and times are written. Addresses are relative to the page.

export async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.description || `the server answers ${answer.status}`);
  }
  return answer.json();
}

// The coverages of a position: parameters by name, each with its times (in milliseconds) and values.
export async function series(collection, lat, lon) {
  const answer = await get(`edr/collections/${collection}/position?coords=POINT(${lon.toFixed(6)} ${lat.toFixed(6)})`);
  const found = { parameters: {} };
  for (const one of answer.coverages || [answer]) {
    const axes = one.domain.axes;
    found.lat = axes.y.values[0];
    found.lon = axes.x.values[0];
    for (const [name, range] of Object.entries(one.ranges)) {
      found.parameters[name] = { times: axes.t.values.map(Date.parse), values: range.values };
    }
  }
  return found;
}

export const stamp = (time) => new Date(time).toISOString().replace(/\.\d+/, "").replace(/[-:]/g, "");
export const clock = (time) => new Date(time).toISOString().slice(11, 16);
export const day = (time) => new Date(time).toISOString().slice(0, 10);

export function units(text) {
  return ({ "1": "", "mm h-1": "mm/h", "kg m-2": "mm" })[text] ?? text;
}

// A text of the server with its units as people write them.
export const pretty = (text) => text.replace("mm h-1", "mm/h").replace("kg m-2", "mm");

export function number(value, kind) {
  if (value === null || value === undefined) return "–";
  if (kind === "probability") return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
  if (kind === "time") return value.toFixed(0);
  if (value !== 0 && Math.abs(value) < 0.01) return value > 0 ? "<0.01" : ">−0.01";
  return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(Math.abs(value) >= 100 ? 4 : 3)));
}

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "unknown";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

export function coordinates(lat, lon) {
  const east = ((lon + 540) % 360) - 180;
  return `${Math.abs(lat).toFixed(3)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(east).toFixed(3)}° ${east < 0 ? "W" : "E"}`;
}
