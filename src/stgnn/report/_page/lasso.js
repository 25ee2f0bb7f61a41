// Cells within a drawn line, and the table of them.

const LISTED = 100;

function cellsWithin(data, path, shown) {
  const taken = new Uint8Array(data.cells), { x, y } = data.array;
  let [left, low, right, high] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [px, py] of path) {
    [left, right] = [Math.min(left, px), Math.max(right, px)];
    [low, high] = [Math.min(low, py), Math.max(high, py)];
  }
  for (let i = 0; i < data.cells; i++) {
    if (shown[i] && x[i] >= left && x[i] <= right && y[i] >= low && y[i] <= high) taken[i] = isWithin(path, x[i], y[i]);
  }
  return taken;
}

// A point is within if a line from it to the right crosses the outline an odd number of times.
function isWithin(path, x, y) {
  let inside = 0;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [ax, ay] = path[i], [bx, by] = path[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside ^= 1;
  }
  return inside;
}

// The nearest shown cell within some pixels, or -1.
function cellAt(data, state, left, top) {
  const [px, py] = toSheet(state.view, data.down, left, top), { x, y } = data.array;
  let nearest = -1, least = (Math.max(8, 0.5 * data.spacing * state.view.zoom) / state.view.zoom) ** 2;
  for (let i = 0; i < data.cells; i++) {
    const far = (x[i] - px) ** 2 + (y[i] - py) ** 2;
    if (far < least && state.shown[i]) [nearest, least] = [i, far];
  }
  return nearest;
}

function takenCells(state) {
  const cells = [];
  state.taken.forEach((is, cell) => is && state.shown[cell] && cells.push(cell));
  return cells;
}

function columnsOf(data) {
  const layers = data.layers.filter((layer) => !layer.gene);
  return [
    ["cell", (cell) => cellNames(data)[cell]],
    ...layers.map((layer) => [layer.title, (cell) => valueOf(data, layer, cell)]),
    ...["x", "y"].map((name, axis) => [
      name + (data.unit && ` (${data.unit})`), (cell) => String(Number(placeOf(data, cell)[axis].toPrecision(7))),
    ]),
  ];
}

function showTable(data, root, cells) {
  const columns = columnsOf(data), [caption, head, body] = root.querySelector("table").children;
  const listed = cells.slice(0, LISTED);
  caption.textContent = `Cells taken: ${listed.length} of ${cells.length.toLocaleString("en")}`;
  head.replaceChildren();
  body.replaceChildren();
  const top = element("tr", head);
  for (const [name] of columns) element("th", top, "", { scope: "col", textContent: name });
  for (const cell of listed) {
    const row = element("tr", body);
    columns.forEach(([, read], place) => {
      if (place) element("td", row, "", { textContent: read(cell) });
      else element("th", row, "", { scope: "row", textContent: read(cell) });
    });
  }
}

function asCsv(data, cells) {
  const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const columns = columnsOf(data), lines = [columns.map(([name]) => quoted(name)).join(",")];
  for (const cell of cells) lines.push(columns.map(([, read]) => quoted(read(cell))).join(","));
  return lines.join("\n") + "\n";
}

function saveCsv(data, cells) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asCsv(data, cells)], { type: "text/csv" }));
  link.download = "cells.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
