// The map: coastlines and borders that ship with the page, a picture of the values, points, areas and their alerts.
/* global L */
import { SIGNS } from "./places.js";

const OUTLINES = {
  raised: { color: "#a3201f", weight: 4 }, unknown: { color: "#1d2430", weight: 2, dashArray: "3 6" },
  clear: { color: "#1d2430", weight: 1.5 }, none: { color: "#1d2430", weight: 1.5 },
};
const CHOSEN = { color: "#2f56a8", weight: 5 };

export class NowcastMap {
  constructor(element, onPoint) {
    this.map = L.map(element, { zoomSnap: 0.25, worldCopyJump: false, attributionControl: false, doubleClickZoom: false });
    L.control.attribution({ prefix: '<a href="page/LICENSES.txt">Leaflet · Natural Earth</a>' }).addTo(this.map);
    L.control.scale({ imperial: false, position: "bottomright" }).addTo(this.map);
    for (const [name, z] of [["values", 250], ["lines", 350], ["places", 450]]) {
      this.map.createPane(name).style.zIndex = z;
    }
    this.map.getPane("lines").style.pointerEvents = "none";
    this.map.on("click", (event) => onPoint(event.latlng.lat, event.latlng.lng));
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target === element) {
        const centre = this.map.getCenter();
        onPoint(centre.lat, centre.lng);
      }
    });
    this.onPoint = onPoint;
    this.picture = null;
    this.bounds = null;
    this.mark = null;
    this.places = L.layerGroup().addTo(this.map);
    this.outlines = new Map();
    this.outlined = null;
  }

  // The grid's bounds: the map is laid there once, and coastlines are drawn around it.
  async setBounds(bounds) {
    if (this.bounds && String(this.bounds) === String(bounds)) return;
    this.bounds = bounds;
    this.map.fitBounds(bounds, { padding: [12, 12] });
    const around = L.latLngBounds(bounds).pad(1.5);
    this.map.setMaxBounds(around);
    this.map.setMinZoom(Math.floor(this.map.getBoundsZoom(around, true)));
    L.rectangle(bounds, { pane: "lines", interactive: false, fill: false, color: "#545e6e", weight: 1, dashArray: "4 4" }).addTo(this.map);
    this.drawDegrees(bounds, around);
    this.drawLines(await coast(), around);
  }

  drawLines(lines, around) {
    const renderer = L.canvas({ pane: "lines", padding: 0.5 });
    const styles = [{ color: "#3a4350", weight: 1.3 }, { color: "#6d7683", weight: 1, dashArray: "5 4" }];
    for (const turn of [-360, 0, 360]) {
      for (const border of [0, 1]) {
        const near = lines.filter((line) => line.border === border).map((line) => line.points.map(([x, y]) => [y, x + turn]))
          .filter((points) => L.latLngBounds(points).intersects(around));
        if (near.length) L.polyline(near, { renderer, pane: "lines", interactive: false, ...styles[border] }).addTo(this.map);
      }
    }
  }

  // Meridians and parallels with their degrees at the edge of the grid: there may be no coast near.
  drawDegrees([[south, west], [north, east]], around) {
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30].find((s) => Math.max(north - south, (east - west) * 0.7) / s <= 5) || 45;
    const style = { pane: "lines", interactive: false, color: "#b9c2cd", weight: 0.7 };
    const label = (at, text, anchor) => L.marker(at, {
      pane: "lines", interactive: false, keyboard: false, icon: L.divIcon({ className: "degree", html: text, iconSize: [0, 0], iconAnchor: anchor }),
    }).addTo(this.map);
    const degrees = (value, signs) => `${Number(Math.abs(value).toFixed(1))}°${value ? signs[value < 0 ? 1 : 0] : ""}`;
    for (let i = Math.ceil(around.getSouth() / step); i * step <= around.getNorth(); i++) {
      L.polyline([[i * step, around.getWest()], [i * step, around.getEast()]], style).addTo(this.map);
      if (i * step > south && i * step < north) label([i * step, west], degrees(i * step, "NS"), [-3, 14]);
    }
    for (let i = Math.ceil(around.getWest() / step); i * step <= around.getEast(); i++) {
      L.polyline([[around.getSouth(), i * step], [around.getNorth(), i * step]], style).addTo(this.map);
      const lon = ((i * step + 540) % 360) - 180;
      if (i * step > west && i * step < east) label([north, i * step], degrees(lon, "EW"), [-3, -1]);
    }
  }

  show(url, bounds) {
    if (!this.picture) {
      this.picture = L.imageOverlay(url, bounds, { pane: "values", opacity: 0.85, alt: "", interactive: false }).addTo(this.map);
    } else {
      this.picture.setUrl(url);
      this.picture.setBounds(bounds);
    }
  }

  // Mark a place, or the area that has the key.
  setMark(lat, lon, area = null, named = false) {
    if (this.mark) this.mark.remove();
    this.mark = null;
    this.outlined = area;
    this.outlines.forEach((outline, key) => outline.setStyle(key === area ? CHOSEN : outline.options.own));
    if (lat === null) return;
    this.mark = L.circleMarker([lat, lon], { pane: "places", radius: named ? 14 : 7, color: "#a3201f", weight: 3, fill: false, interactive: false }).addTo(this.map);
  }

  // Follow a change of size, and keep the mark in view.
  resized() {
    this.map.invalidateSize({ pan: true, animate: false });
    if (this.mark) this.map.panInside(this.mark.getLatLng(), { paddingTopLeft: [40, 40], paddingBottomRight: [140, 40], animate: false });  // and its name
  }

  // States are told by sign, width and dashes, not by colour alone. The list of places is for keyboards and readers.
  setPlaces(places, stateOf, choose) {
    this.places.clearLayers();
    this.outlines.clear();
    for (const place of places) {
      const state = stateOf(place.alerts) || "none";
      const named = places.length <= 12 || state === "raised";
      let lat = place.latitude, lon = place.longitude;
      if (place.kind === "area") {
        if (!place.feature.geometry) continue;
        const own = { ...OUTLINES[state], fill: false };
        const outline = L.geoJSON(place.feature, { pane: "places", bubblingMouseEvents: false, style: own, own });
        outline.on("click", () => choose(place)).bindTooltip(place.name, { sticky: true }).addTo(this.places);
        this.outlines.set(place.key, outline);
        if (place.key === this.outlined) outline.setStyle(CHOSEN);
        if (!named) continue;
        ({ lat, lng: lon } = outline.getBounds().getCenter());
      }
      const html = document.createElement("span"), sign = document.createElement("i"), name = document.createElement("b");
      sign.textContent = SIGNS[state] || "●";
      name.textContent = place.name;
      html.append(sign, ...(named ? [name] : []));
      const icon = L.divIcon({ className: `place ${place.kind} ${state}`, html, iconSize: [0, 0] });
      const marker = L.marker([lat, lon], { pane: "places", keyboard: false, icon, alt: "" }).on("click", () => choose(place));
      if (!named) marker.bindTooltip(place.name, { direction: "right", offset: [8, 0] });
      marker.addTo(this.places);
    }
  }
}

// Lines as tools/coastlines.py writes them: counts and differences in hundredths of a degree, seven bits a byte.
let lines = null;
async function coast() {
  if (lines) return lines;
  const bytes = new Uint8Array(await (await fetch("page/coast.bin")).arrayBuffer());
  let at = 0;
  const next = () => {
    let value = 0, shift = 0, byte;
    do { byte = bytes[at++]; value |= (byte & 127) << shift; shift += 7; } while (byte > 127);
    return value;
  };
  const signed = () => { const value = next(); return value & 1 ? -(value + 1) / 2 : value / 2; };
  lines = [];
  while (at < bytes.length) {
    const head = next(), points = [];
    let x = 0, y = 0;
    for (let i = head >> 1; i > 0; i--) {
      x += signed();
      y += signed();
      points.push([x / 100, y / 100]);
    }
    lines.push({ border: head & 1, points });
  }
  return lines;
}
