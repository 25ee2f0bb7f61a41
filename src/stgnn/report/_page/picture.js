// The state, and the one way that it changes: update(changes) keeps it, and draws anew what follows from the changes.

async function start(root) {
  const data = await readData(), find = (selector) => root.querySelector(selector);
  const canvas = find("canvas"), points = openPoints(canvas, data);
  if (!points) return;
  // The tissue's own shape within bounds, the same on paper.
  find(".picture-stage").style.aspectRatio = Math.min(Math.max(data.high[0] / data.high[1], 1), 2.2);
  const state = {
    by: 0, tool: "move", view: null, path: null, taken: null, pointed: null, told: null,
    hidden: data.classes.map(() => new Set()), shown: null,
  };
  const base = shuffled(data.cells), rgba = new Uint8Array(4 * data.cells);
  const classes = makeClasses(data, find(".picture-classes"), update);
  const images = data.images.map((image) => ({ ...image, made: element("img", find(".picture-images"), "", { src: image.uri, alt: "" }) }));
  const labels = data.sections.map((section) => element("span", find(".picture-labels"), "", { textContent: section.name }));
  const corners = labels.length > 1 ? cornersOf(data) : [];
  let frame = 0;

  function update(changes) {
    const has = (...names) => names.some((name) => name in changes);
    Object.assign(state, changes);
    if (has("hidden")) state.shown = shownCells(data, state.hidden);
    if (has("by")) points.order(drawingOrder(data, data.layers[state.by], base));
    if (has("by", "hidden", "taken", "pointed")) points.colour(paint(data, state, rgba));
    if (has("by", "hidden", "taken")) classes.show(state);
    if (has("by")) showScale(find(".picture-scale"), data.layers[state.by]);
    if (has("hidden", "taken")) showTaken();
    if (has("tool")) showTool();
    if (has("told")) showTip();
    frame = frame || requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    const { view } = state, percent = (part, whole) => (100 * part) / whole + "%";
    const put = (made, left, top) => Object.assign(made.style, { left: percent(left, view.width), top: percent(top, view.height) });
    points.draw(view, data.down, pointSize(data, view));
    for (const { made, box } of images) {
      put(made, ...toScreen(view, data.down, box[0], box[1]));
      made.style.width = percent((box[2] - box[0]) * view.zoom, view.width);
      made.style.height = percent((box[3] - box[1]) * view.zoom, view.height);
    }
    corners.forEach((corner, place) => put(labels[place], ...toScreen(view, data.down, ...corner)));
    const drawn = (state.path || []).map(([x, y]) => toScreen(view, data.down, x, y).map(Math.round).join(","));
    find("polygon").setAttribute("points", drawn.join(" "));
    showBar(find(".picture-bar"), data, view);
  }

  function showTool() {
    for (const button of root.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
    }
    canvas.classList.toggle("drawing", state.tool === "lasso");
  }

  function showTaken() {
    const cells = state.taken ? takenCells(state) : [], shown = state.shown.reduce((sum, is) => sum + is, 0);
    find(".picture-taken").hidden = !state.taken;
    find(".picture-status").textContent = `${shown.toLocaleString("en")} of ${data.cells.toLocaleString("en")} cells shown` +
      (state.taken ? `, ${cells.length.toLocaleString("en")} taken, which the bars count and the file below holds.` : "; the bars count these.");
    if (state.taken) showTable(data, root, cells);
  }

  function showTip() {
    const tip = find(".picture-tip"), told = state.told;
    tip.hidden = !told;
    if (!told) return;
    const layers = data.layers.filter((layer, place) => !layer.gene || place === state.by);
    tip.replaceChildren(...layers.map((layer) => Object.assign(document.createElement("span"), {
      textContent: `${layer.title}: ${valueOf(data, layer, told.cell)}`,
    })));
    element("span", tip, "", { textContent: cellNames(data)[told.cell] });
    const [left, top] = told.at, right = left > state.view.width / 2, below = top > state.view.height / 2;
    tip.style.inset = `${below ? "auto" : top + 14 + "px"} ${right ? state.view.width - left + 14 + "px" : "auto"} ` +
      `${below ? state.view.height - top + 14 + "px" : "auto"} ${right ? "auto" : left + 14 + "px"}`;
  }

  function fit() {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    // On paper the picture is stretched as it is: it was drawn for the screen.
    if (!box.width || window.matchMedia("print").matches) return;
    [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    const whole = wholeView(data, box.width, box.height), { view } = state;
    const kept = view && { ...whole, x: view.x, y: view.y, zoom: (view.zoom / view.least) * whole.least };
    update({ view: kept || whole });
  }

  const act = {
    view: (view) => update({ view, told: null }),
    whole: () => update({ view: wholeView(data, state.view.width, state.view.height) }),
    tool: (tool) => update({ tool }),
    lasso: (path) => update({ path, told: null }),
    take: (path) => update({ path, taken: cellsWithin(data, path, state.shown) }),
    clear: () => update({ path: null, taken: null }),
    point(at) {
      const cell = at ? cellAt(data, state, ...at) : -1;
      if (cell >= 0 || state.told) update({ told: cell < 0 ? null : { cell, at } });
    },
  };
  const view = (factor) => act.view(zoomed(state.view, data.down, factor));
  const corner = (left, top) => toSheet(state.view, data.down, left * state.view.width, top * state.view.height);
  const buttons = {
    closer: () => view(1.4), farther: () => view(1 / 1.4), whole: act.whole, clear: act.clear,
    take: () => act.take([corner(0, 0), corner(1, 0), corner(1, 1), corner(0, 1)]),
    save: () => saveCsv(data, takenCells(state)),
  };
  for (const button of root.querySelectorAll("[data-do]")) button.onclick = buttons[button.dataset.do];
  for (const button of root.querySelectorAll("[data-tool]")) button.onclick = () => act.tool(button.dataset.tool);
  root.onkeydown = (event) => {
    if (event.key === "Escape") act.clear();
  };
  fillLayers(find("select"), data, (by) => update({ by }));
  listenToImages(root, images);
  listenToPointer(canvas, data.down, () => state, act);
  listenToKeys(canvas, data.down, () => state, act);
  canvas.addEventListener("webglcontextlost", () => show(root, false));

  show(root, true);
  fit();
  update({ by: 0, hidden: state.hidden, taken: null, tool: "move" });
  new ResizeObserver(fit).observe(canvas);
  // The second frame begins once the first, with all cells in it, was handed over.
  requestAnimationFrame(() => requestAnimationFrame(() => (root.dataset.drawn = Math.round(performance.now()))));
}

// The static map stands where the picture does not.
function show(root, works) {
  root.hidden = !works;
  const still = document.getElementById("picture-still");
  if (still) still.hidden = works;
}

// Where the name of each section stands: above its upper left corner.
function cornersOf(data) {
  const corners = data.sections.map(() => [Infinity, data.down ? Infinity : -Infinity]);
  for (let i = 0; i < data.cells; i++) {
    const corner = corners[data.section[i]];
    corner[0] = Math.min(corner[0], data.array.x[i]);
    corner[1] = (data.down ? Math.min : Math.max)(corner[1], data.array.y[i]);
  }
  return corners;
}

function fillLayers(select, data, choose) {
  const genes = Object.assign(document.createElement("optgroup"), { label: "Genes" });
  data.layers.forEach((layer, place) => element("option", layer.gene ? genes : select, "", { value: place, textContent: layer.title }));
  if (genes.children.length) select.append(genes);
  select.onchange = () => choose(Number(select.value));
  select.value = "0"; // some browsers keep the choice over a reload
}

function showScale(root, layer) {
  root.hidden = Boolean(layer.names);
  if (layer.names) return;
  const [low, ramp, high] = root.children;
  low.textContent = (layer.gene ? layer.title + ", log-normalised: " : "confidence: ") + "0";
  high.textContent = layer.gene ? `${layer.largest.toFixed(2)} or more` : "1";
  ramp.style.background = `linear-gradient(to right, ${layer.colors.join(", ")})`;
}

// A round length, at most a quarter of the width.
function showBar(root, data, view) {
  const length = (data.step * view.width) / 4 / view.zoom, power = 10 ** Math.floor(Math.log10(length));
  const round = [5, 2, 1].map((part) => part * power).find((part) => part <= length * (1 + 1e-9));
  root.children[0].style.width = (25 * round) / length + "%";
  const long = data.unit === "µm" && round >= 1000;
  root.children[1].textContent = long ? `${round / 1000} mm` : `${Number(round.toPrecision(1))} ${data.unit || "units"}`;
}

function listenToImages(root, images) {
  if (!images.length) return;
  for (const label of root.querySelectorAll(".picture-image")) label.hidden = false;
  const [box, cells, canvas] = ["#picture-image", "#picture-cells", "canvas"].map((name) => root.querySelector(name));
  const apply = () => {
    for (const { made } of images) made.hidden = !box.checked;
    canvas.style.opacity = cells.value / 100;
  };
  box.onchange = cells.oninput = apply;
  apply();
}

const picture = document.getElementById("picture");
if (picture && window.DecompressionStream) {
  start(picture).catch((error) => {
    show(picture, false);
    picture.dataset.fault = String(error); // the console stays silent: the page still shows its map
  });
}
