// Points drawn by the graphics card: places are sent once, colours and order when they change.

const VERTEX = `#version 300 es
in vec2 place; in vec4 colour; uniform vec2 centre, unit; uniform float size; out vec4 tint;
void main() {
  // A hidden cell has no alpha, and goes where nothing is drawn.
  gl_Position = colour.a > 0.0 ? vec4((place - centre) * unit, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = size; tint = colour;
}`;
const FRAGMENT = `#version 300 es
precision highp float; in vec4 tint; uniform float size; out vec4 shown;
void main() {
  float off = length(gl_PointCoord - 0.5);
  if (size > 3.0 && off > 0.5) discard;
  // A white rim parts large points from their neighbours, and from an image of their own colour.
  shown = size > 8.0 && off > 0.42 ? vec4(1.0) : vec4(tint.rgb, 1.0);
}`;

const MOST_MOVING = 50000;

// Returns null where there is no WebGL 2. Of the base, a shuffled order of all cells, the first are the sample.
function openPoints(canvas, data, base) {
  // Without preserveDrawingBuffer a printed page would hold an empty canvas.
  const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = link(gl);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const places = new Uint16Array(2 * data.cells);
  for (let i = 0; i < data.cells; i++) {
    places[2 * i] = data.array.x[i];
    places[2 * i + 1] = data.array.y[i];
  }
  attribute(gl, program, "place", places, 2, gl.UNSIGNED_SHORT, false);
  const colours = attribute(gl, program, "colour", new Uint8Array(4 * data.cells), 4, gl.UNSIGNED_BYTE, true);
  const all = gl.createBuffer(), few = gl.createBuffer();
  const send = (buffer, cells) => {
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, cells, gl.DYNAMIC_DRAW);
  };
  const sample = base.subarray(0, MOST_MOVING);
  send(few, sample);
  return {
    colour(rgba) {
      gl.bindBuffer(gl.ARRAY_BUFFER, colours);
      gl.bufferData(gl.ARRAY_BUFFER, rgba, gl.DYNAMIC_DRAW);
    },
    order: (cells) => send(all, cells),
    draw(view, down, size, isSample) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(uniform("centre"), view.x, view.y);
      gl.uniform2f(uniform("unit"), (2 * view.zoom) / view.width, ((down ? -2 : 2) * view.zoom) / view.height);
      gl.uniform1f(uniform("size"), size);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, isSample ? few : all);
      gl.drawElements(gl.POINTS, isSample ? sample.length : data.cells, gl.UNSIGNED_INT, 0);
    },
  };
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  return program;
}

function attribute(gl, program, name, values, width, kind, normalised) {
  const buffer = gl.createBuffer(), place = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, width, kind, normalised, 0, 0);
  return buffer;
}
