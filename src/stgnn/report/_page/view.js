// The view: which place lies in the middle, and how many pixels one step has; pointer and keys move it.

const LARGEST_POINT = 40, MARGIN = 30; // pixels; the margin holds names above and the scale bar below

function wholeView(data, width, height) {
  const { high } = data, zoom = Math.min((width - 2 * MARGIN) / high[0], (height - 2 * MARGIN) / high[1]);
  return { x: high[0] / 2, y: high[1] / 2, zoom, least: zoom / 2, most: Math.max(zoom, 60 / data.spacing), width, height };
}

function pointSize(data, view) {
  const ratio = window.devicePixelRatio || 1;
  return ratio * Math.min(Math.max(0.8 * data.spacing * view.zoom, 1.2), LARGEST_POINT);
}

function toScreen(view, down, x, y) {
  const up = down ? 1 : -1;
  return [view.width / 2 + (x - view.x) * view.zoom, view.height / 2 + up * (y - view.y) * view.zoom];
}

function toSheet(view, down, left, top) {
  const up = down ? 1 : -1;
  return [view.x + (left - view.width / 2) / view.zoom, view.y + (up * (top - view.height / 2)) / view.zoom];
}

function moved(view, down, left, top) {
  return { ...view, x: view.x - left / view.zoom, y: view.y - ((down ? 1 : -1) * top) / view.zoom };
}

// The place under (left, top) stays there.
function zoomed(view, down, factor, left = view.width / 2, top = view.height / 2) {
  const zoom = Math.min(Math.max(view.zoom * factor, view.least), view.most);
  const [x, y] = toSheet(view, down, left, top), kept = view.zoom / zoom;
  return { ...view, zoom, x: x + (view.x - x) * kept, y: y + (view.y - y) * kept };
}

// Dragging moves or draws a lasso; two fingers zoom; the wheel zooms once the picture was clicked or with Ctrl held.
function listenToPointer(canvas, down, get, act) {
  const fingers = new Map();
  let path = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return { size: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1, middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
  };
  canvas.onpointerdown = (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    const draws = fingers.size === 1 && (get().tool === "lasso" || event.shiftKey);
    path = draws ? [toSheet(get().view, down, ...at(event))] : null;
  };
  canvas.onpointermove = (event) => {
    const here = at(event), before = fingers.get(event.pointerId), view = get().view;
    if (!before) return act.point(here);
    const spreadBefore = fingers.size === 2 ? spread() : null;
    fingers.set(event.pointerId, here);
    if (spreadBefore) act.view(zoomed(view, down, spread().size / spreadBefore.size, ...spread().middle));
    else if (path) act.lasso(path = [...path, toSheet(view, down, ...here)]);
    else act.view(moved(view, down, here[0] - before[0], here[1] - before[1]));
  };
  canvas.onpointerup = canvas.onpointercancel = (event) => {
    fingers.delete(event.pointerId);
    if (path && path.length > 2) act.take(path);
    if (!path && !fingers.size) act.point(at(event)); // a tap names a cell where nothing can hover
    path = null;
  };
  canvas.onpointerleave = (event) => {
    if (event.pointerType === "mouse") act.point(null);
  };
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    act.view(zoomed(get().view, down, Math.exp(-event.deltaY / 400), ...at(event)));
  }, { passive: false });
}

function listenToKeys(canvas, down, get, act) {
  const step = 60, moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  canvas.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const view = get().view, key = event.key;
    if (moves[key]) act.view(moved(view, down, ...moves[key]));
    else if (key === "+" || key === "=") act.view(zoomed(view, down, 1.4));
    else if (key === "-") act.view(zoomed(view, down, 1 / 1.4));
    else if (key === "0") act.whole();
    else if (key === "l" || key === "L") act.tool(get().tool === "lasso" ? "move" : "lasso");
    else return;
    event.preventDefault();
  };
}
