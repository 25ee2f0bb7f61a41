// From the state to a colour of each cell, and the order in which cells are drawn.

const FADED = [225, 225, 225];

function rgbOf(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// Colours of all codes of a layer: its own of classes, mixtures of the nearest two of values.
function paletteOf(layer) {
  const ends = layer.colors.map(rgbOf);
  if (layer.names) return ends;
  return Array.from({ length: 256 }, (_, code) => {
    const place = (code / 255) * (ends.length - 1), low = Math.min(Math.floor(place), ends.length - 2);
    return ends[low].map((part, i) => Math.round(part + (place - low) * (ends[low + 1][i] - part)));
  });
}

// 1 for each cell none of whose classes is hidden.
function shownCells(data, hidden) {
  const shown = new Uint8Array(data.cells).fill(1);
  data.classes.forEach((layer, place) => {
    if (!hidden[place].size) return;
    const codes = data.array[layer.array], gone = layer.names.map((_, code) => hidden[place].has(code));
    for (let i = 0; i < data.cells; i++) if (gone[codes[i]]) shown[i] = 0;
  });
  return shown;
}

// RGBA of each cell; those beside the lasso, or beside the class pointed at, fade; hidden ones have no alpha.
function paint(data, state, rgba) {
  const layer = data.layers[state.by], codes = data.array[layer.array], palette = paletteOf(layer);
  const pointed = state.pointed && data.array[data.classes[state.pointed.place].array];
  for (let i = 0, at = 0; i < data.cells; i++, at += 4) {
    const faded = (state.taken && !state.taken[i]) || (pointed && pointed[i] !== state.pointed.code);
    const colour = faded ? FADED : palette[codes[i]];
    rgba[at] = colour[0];
    rgba[at + 1] = colour[1];
    rgba[at + 2] = colour[2];
    rgba[at + 3] = state.shown[i] ? 255 : 0;
  }
  return rgba;
}

// Always the same shuffled order, in which no class covers another.
function shuffled(number) {
  const order = new Uint32Array(number);
  for (let i = 0, seed = 1; i < number; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((seed / 4294967296) * (i + 1));
    order[i] = order[other];
    order[other] = i;
  }
  return order;
}

// Drawn last, so on top: the least sure cells, the highest expression; the unknown lie below all types.
function drawingOrder(data, layer, start) {
  const codes = data.array[layer.array], unknown = layer.names ? layer.names.indexOf("unknown") : -1;
  const levels = layer.names ? 2 : 256, level = (code) => (layer.gene ? code : 255 - code);
  const rank = layer.names ? (code) => (code === unknown ? 0 : 1) : level;
  const ends = new Uint32Array(levels + 1), order = new Uint32Array(data.cells);
  for (let i = 0; i < data.cells; i++) ends[rank(codes[i]) + 1]++;
  for (let i = 0; i < levels; i++) ends[i + 1] += ends[i];
  for (const cell of start) order[ends[rank(codes[cell])]++] = cell;
  return order;
}
