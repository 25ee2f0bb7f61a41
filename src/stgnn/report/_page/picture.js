// The state, and the one way that it changes: update(changes) keeps it, and draws anew what follows from the changes.

async function start(root) {
  const data = await readData(), find = (selector) => root.querySelector(selector);
  const canvas = find("canvas"), base = shuffled(data.cells), points = openPoints(canvas, data, base);
  if (!points) return;
  const state = {
    by: 0, // place of the layer that gives the colours
    tool: "move", // or "lasso"
    view: null, // see view.js
    hidden: data.classes.map(() => new Set()), // codes of each class
    shown: null, // 1 for each cell of which nothing is hidden; follows from hidden
    path: null, // the lasso, as places
    taken: null, // 1 for each cell in it
    pointed: null, // the class under the pointer, as { place, code }
    told: null, // the cell under the pointer, as { cell, at }
  };
  const rgba = new Uint8Array(4 * data.cells);
  const classes = makeClasses(data, find(".picture-classes"), update), overlay = makeOverlay(data, root);
  let [frame, moving, slow, rest] = [0, false, 0, 0];

  function update(changes) {
    const has = (...names) => names.some((name) => name in changes);
    Object.assign(state, changes);
    if (has("hidden")) state.shown = shownCells(data, state.hidden);
    if (has("by")) points.order(drawingOrder(data, data.layers[state.by], base));
    if (has("by", "hidden", "taken", "pointed")) points.colour(paint(data, state, rgba));
    if (has("by", "hidden", "taken")) classes.show(state);
    if (has("by")) showScale(find(".picture-scale"), data.layers[state.by]);
    if (has("hidden", "taken")) showTaken(root, data, state);
    if (has("tool")) showTool(root, state);
    if (has("told")) showTip(find(".picture-tip"), data, state);
    moving = has("view");
    frame = frame || requestAnimationFrame(draw);
  }

  // Without a graphics card half a million points take a third of a second. Where three frames came late, a sample
  // of the cells stands for all while the view moves.
  function draw(now) {
    const isSample = moving && slow >= 3;
    frame = 0;
    points.draw(state.view, data.down, pointSize(data, state.view), isSample);
    overlay(state);
    clearTimeout(rest);
    if (isSample) rest = setTimeout(() => update({}), 200);
    else if (moving) requestAnimationFrame((next) => (slow += next - now > 100 && next - now < 1000));
  }

  show(root, true);
  // The tissue's own shape within bounds, the same on paper.
  find(".picture-stage").style.aspectRatio = Math.min(Math.max(data.high[0] / data.high[1], 1), 2.2);
  const fit = () => fitCanvas(canvas, data, state, update);
  fit();
  listen(root, data, state, update);
  update({ by: 0, hidden: state.hidden, taken: null, tool: "move" });
  new ResizeObserver(fit).observe(canvas);
  canvas.addEventListener("webglcontextlost", () => show(root, false));
  // The second frame begins once the first, with all cells in it, was handed over.
  requestAnimationFrame(() => requestAnimationFrame(() => (root.dataset.drawn = Math.round(performance.now()))));
}

// What a reader can do, whether by pointer, keys or buttons.
function listen(root, data, state, update) {
  const canvas = root.querySelector("canvas"), { down } = data;
  const act = {
    view: (view) => update({ view, told: null }),
    zoom: (factor) => act.view(zoomed(state.view, down, factor)),
    whole: () => act.view(wholeView(data, state.view.width, state.view.height)),
    tool: (tool) => update({ tool }),
    lasso: (path) => update({ path, told: null }),
    take: (path) => update({ path, taken: cellsWithin(data, path, state.shown) }),
    clear: () => update({ path: null, taken: null }),
    point(at) {
      const cell = at ? cellAt(data, state, ...at) : -1;
      if (cell >= 0 || state.told) update({ told: cell < 0 ? null : { cell, at } });
    },
  };
  const corner = (left, top) => toSheet(state.view, down, left * state.view.width, top * state.view.height);
  const buttons = {
    closer: () => act.zoom(1.4), farther: () => act.zoom(1 / 1.4), whole: act.whole, clear: act.clear,
    take: () => act.take([corner(0, 0), corner(1, 0), corner(1, 1), corner(0, 1)]),
    save: () => saveCsv(data, takenCells(state)),
  };
  for (const button of root.querySelectorAll("[data-do]")) button.onclick = buttons[button.dataset.do];
  for (const button of root.querySelectorAll("[data-tool]")) button.onclick = () => act.tool(button.dataset.tool);
  root.onkeydown = (event) => {
    if (event.key === "Escape") act.clear();
  };
  fillLayers(root.querySelector("select"), data, (by) => update({ by }));
  listenToPointer(canvas, down, () => state, act);
  listenToKeys(canvas, down, () => state, act);
}

function fitCanvas(canvas, data, state, update) {
  const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, { view } = state;
  // On paper the picture is stretched as it is: it was drawn for the screen.
  if (!box.width || window.matchMedia("print").matches) return;
  [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  const whole = wholeView(data, box.width, box.height);
  canvas.closest(".picture").style.setProperty("--stage", `${box.height}px`); // lists are as high as the picture
  update({ view: view ? { ...whole, x: view.x, y: view.y, zoom: (view.zoom / view.least) * whole.least } : whole });
}

function fillLayers(select, data, choose) {
  const genes = Object.assign(document.createElement("optgroup"), { label: "Genes" });
  data.layers.forEach((layer, value) => element("option", layer.gene ? genes : select, "", { value, textContent: layer.title }));
  if (genes.children.length) select.append(genes);
  select.onchange = () => choose(Number(select.value));
  select.value = "0"; // some browsers keep the choice over a reload
}

function showTool(root, { tool }) {
  for (const button of root.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  }
  root.querySelector("canvas").classList.toggle("drawing", tool === "lasso");
}

function showTaken(root, data, state) {
  const cells = state.taken ? takenCells(state) : [], number = (count) => count.toLocaleString("en");
  const shown = state.shown.reduce((sum, is) => sum + is, 0);
  root.querySelector(".picture-taken").hidden = !state.taken;
  root.querySelector(".picture-status").textContent = `${number(shown)} of ${number(data.cells)} cells shown` +
    (state.taken ? `, ${number(cells.length)} taken, which the bars count and the file below holds.` : "; the bars count these.");
  if (state.taken) showTable(data, root, cells);
}

// The static map stands where the picture does not.
function show(root, works) {
  root.hidden = !works;
  document.getElementById("picture-still").hidden = works;
}

const picture = document.getElementById("picture");
if (window.DecompressionStream) {
  start(picture).catch((error) => {
    show(picture, false);
    picture.dataset.fault = String(error); // the console stays silent: the page still shows its map
  });
}
