// What the page carries: names and scales as JSON, arrays as one deflated run of bytes.

async function readData() {
  const data = JSON.parse(document.getElementById("picture-facts").textContent);
  const buffer = await inflate(document.getElementById("picture-data").textContent);
  data.array = {};
  for (const [name, [bytes, start, length]] of Object.entries(data.arrays)) {
    data.array[name] = bytes === 2 ? new Uint16Array(buffer, start, length) : new Uint8Array(buffer, start, length);
  }
  data.high = ["x", "y"].map((name) => data.array[name].reduce((most, value) => Math.max(most, value), 1));
  data.section = data.array.section || new Uint8Array(data.cells);
  data.classes = data.layers.filter((layer) => layer.names);
  return data;
}

async function inflate(text) {
  const packed = atob(text), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Names of half a million cells are only made into strings when someone asks for one.
function cellNames(data) {
  data.cellNames = data.cellNames || new TextDecoder().decode(data.array.names).split("\n");
  return data.cellNames;
}

function placeOf(data, cell) {
  const shift = data.sections[data.section[cell]].shift;
  return [data.array.x[cell] * data.step + shift[0], data.array.y[cell] * data.step + shift[1]];
}

function valueOf(data, layer, cell) {
  const code = data.array[layer.array][cell];
  return layer.names ? layer.names[code] : ((code / 255) * layer.largest).toFixed(2);
}
