// What lies on and under the points: images, names of sections, the lasso's line, the scale bar, the name of a cell.

const percent = (part, whole) => (100 * part) / whole + "%";

// Returns a function that moves all of it to a view; in percent, so that it holds where paper stretches the stage.
function makeOverlay(data, root) {
  const find = (selector) => root.querySelector(selector), names = data.sections.length > 1 ? data.sections : [];
  const images = data.images.map(({ uri }) => element("img", find(".picture-images"), "", { src: uri, alt: "" }));
  const labels = names.map(({ name }) => element("span", find(".picture-labels"), "", { textContent: name }));
  const corners = cornersOf(data);
  listenToImages(root, images);
  return ({ view, path }) => {
    const put = (made, x, y) => {
      const [left, top] = toScreen(view, data.down, x, y);
      Object.assign(made.style, { left: percent(left, view.width), top: percent(top, view.height) });
    };
    images.forEach((made, place) => {
      const [left, top, right, bottom] = data.images[place].box;
      put(made, left, top);
      made.style.width = percent((right - left) * view.zoom, view.width);
      made.style.height = percent((bottom - top) * view.zoom, view.height);
    });
    labels.forEach((label, place) => put(label, ...corners[place]));
    const drawn = (path || []).map(([x, y]) => toScreen(view, data.down, x, y).map(Math.round).join(","));
    find("polygon").setAttribute("points", drawn.join(" "));
    showBar(find(".picture-bar"), data, view);
  };
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

// A round length, at most a quarter of the width.
function showBar(root, data, view) {
  const most = (data.step * view.width) / 4 / view.zoom, power = 10 ** Math.floor(Math.log10(most));
  const round = [5, 2, 1].map((part) => part * power).find((part) => part <= most * (1 + 1e-9));
  root.children[0].style.width = percent(round, 4 * most);
  const long = data.unit === "µm" && round >= 1000;
  root.children[1].textContent = long ? `${round / 1000} mm` : `${Number(round.toPrecision(1)).toLocaleString("en")} ${data.unit || "units"}`;
}

function showScale(root, layer) {
  root.hidden = Boolean(layer.names);
  if (layer.names) return;
  const [low, ramp, high] = root.children;
  low.textContent = (layer.gene ? layer.title + ", log-normalised: " : "confidence: ") + "0";
  high.textContent = layer.gene ? `${layer.largest.toFixed(2)} or more` : "1";
  ramp.style.background = `linear-gradient(to right, ${layer.colors.join(", ")})`;
}

// All that is known of the cell under the pointer, on the side of it where there is room.
function showTip(tip, data, { told, by, view }) {
  tip.hidden = !told;
  if (!told) return;
  tip.replaceChildren();
  data.layers.forEach((layer, place) => {
    if (layer.gene && place !== by) return;
    element("span", tip, "", { textContent: `${layer.title}: ${valueOf(data, layer, told.cell)}` });
  });
  element("span", tip, "", { textContent: cellNames(data)[told.cell] });
  const [left, top] = told.at, side = (here, whole) => (here > whole / 2 ? ["auto", `${whole - here + 14}px`] : [`${here + 14}px`, "auto"]);
  [tip.style.left, tip.style.right] = side(left, view.width);
  [tip.style.top, tip.style.bottom] = side(top, view.height);
}

function listenToImages(root, images) {
  if (!images.length) return;
  for (const label of root.querySelectorAll(".picture-image")) label.hidden = false;
  const [box, cells, canvas] = ["#picture-image", "#picture-cells", "canvas"].map((name) => root.querySelector(name));
  const apply = () => {
    for (const made of images) made.hidden = !box.checked;
    canvas.style.opacity = cells.value / 100;
  };
  box.onchange = cells.oninput = apply;
  apply();
}
