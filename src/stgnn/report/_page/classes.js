// Lists of classes: each row a toggle, and a bar of how many of the cells in question it has.

function makeClasses(data, root, update) {
  const rows = data.classes.map((layer, place) => {
    const group = element("section", root), number = countCodes(data, layer, null);
    const head = element("div", group, "picture-head");
    element("h3", head, "", { textContent: layer.title[0].toUpperCase() + layer.title.slice(1) + "s" });
    for (const [title, all] of [["all", true], ["none", false]]) {
      const button = element("button", head, "", { type: "button", textContent: title });
      button.setAttribute("aria-label", (all ? "Show all " : "Show no ") + layer.title + "s");
      button.onclick = () => update({ hidden: replaced(place, new Set(all ? [] : layer.names.keys())) });
    }
    const list = element("ul", group);
    return layer.names.map((name, code) => number[code] && makeRow(list, name, layer.colors[code], place, code));
  });
  let hidden = [];

  function replaced(place, set) {
    return hidden.map((each, other) => (other === place ? set : each));
  }

  function makeRow(list, name, colour, place, code) {
    const button = element("button", element("li", list), "picture-row", { type: "button" });
    element("i", button, "swatch").style.background = colour;
    element("span", button, "picture-name", { textContent: name });
    const count = element("span", button, "picture-count");
    const bar = element("i", element("span", button, "picture-share"));
    bar.style.background = colour;
    button.onclick = () => {
      const set = new Set(hidden[place]);
      if (!set.delete(code)) set.add(code);
      update({ hidden: replaced(place, set) });
    };
    const point = (pointed) => () => update({ pointed });
    button.onmouseenter = button.onfocus = point({ place, code });
    button.onmouseleave = button.onblur = point(null);
    return { button, count, bar };
  }

  return {
    // Bars count the cells that are shown, or of these the ones in the lasso.
    show(state) {
      hidden = state.hidden;
      rows.forEach((group, place) => {
        const layer = data.classes[place], number = countCodes(data, layer, state), most = Math.max(...number, 1);
        group.forEach((row, code) => {
          if (!row) return;
          row.button.setAttribute("aria-pressed", String(!hidden[place].has(code)));
          row.count.textContent = number[code].toLocaleString("en");
          row.bar.style.width = (100 * number[code]) / most + "%";
          row.button.classList.toggle("plain", data.layers[state.by] !== layer);
        });
      });
    },
  };
}

function countCodes(data, layer, state) {
  const number = new Array(layer.names.length).fill(0), codes = data.array[layer.array];
  for (let i = 0; i < data.cells; i++) {
    if (!state || (state.shown[i] && (!state.taken || state.taken[i]))) number[codes[i]]++;
  }
  return number;
}

function element(tag, parent, css = "", properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  if (css) made.className = css;
  parent.append(made);
  return made;
}
