/* Who listens to whom: arcs over the sentence, the map, and the arithmetic of one row,
   all about the same query and key (chapters 04, 05 and 10). */
"use strict";
tinygptWidgets.widgets.attention = (box, data) => {
  const { make, choice, canvas, title, spoken, visible, written, fixed, softmax } = tinygptWidgets;
  const { tokens, scores, head_dim: headDim } = data;  // scores [layers][heads][T][T]
  const masks = box.dataset.mask === "choose";
  const T = tokens.length, root = Math.sqrt(headDim);
  const layer = choice("layer", scores.map((_, i) => String(i + 1)), draw);
  const head = choice("head", scores[0].map((_, i) => String(i + 1)), draw);
  const mask = choice("mask", ["on: nobody looks ahead", "off: all look everywhere"], draw);
  layer.value = Number(box.dataset.layer ?? 1) - 1;
  head.value = Number(box.dataset.head ?? 1) - 1;
  let row = Math.max(0, box.dataset.query ? tokens.indexOf(box.dataset.query) : T - 1);
  let column = 0;

  const arcs = canvas(460, 156), left = 92, cell = Math.floor((460 - left) / T);
  const map = canvas(left + cell * T + 2, cell * T + 96);
  map.setAttribute("tabindex", "0");
  map.setAttribute("role", "application");
  map.setAttribute("aria-roledescription", "attention map");
  const said = spoken();
  const sums = make("div", { class: "scrolls", role: "region", tabindex: 0, "aria-label": "the arithmetic" });
  const hidden = (r, c) => c > r && mask.value === 0;

  /** The four steps for one query: dot product, score, power, weight. */
  function steps(r) {
    const line = scores[layer.value][head.value][r];
    const allowed = line.map((score, c) => (hidden(r, c) ? -Infinity : score));
    return { dots: line.map((score) => score * root), scores: allowed, weights: softmax(allowed) };
  }

  const at = (c) => 16 + (c + 0.5) * (428 / T);  // the place of a token under the arcs
  function drawArcs() {
    const { weights } = steps(row);
    arcs.replaceChildren();
    for (let c = 0; c < T; c++) {
      const [a, b] = [at(row), at(c)], chosen = c === column;
      const height = Math.min(96, 14 + Math.abs(a - b) * 0.45);
      if (!hidden(row, c) && c !== row) arcs.append(make("path", {
        class: chosen ? "arc now" : "arc", "stroke-opacity": (0.08 + 0.92 * weights[c]).toFixed(3),
        "stroke-width": (1 + 9 * weights[c]).toFixed(1),
        d: `M${a},110C${a},${110 - height} ${b},${110 - height} ${b},110` }));
      const word = make("text", { x: b, y: 118, "text-anchor": "end",
        class: c === row ? "query" : chosen ? "key" : "",
        transform: `rotate(-45 ${b} 118)` }, visible(tokens[c]));
      word.addEventListener("pointerenter", () => choose(row, c));
      word.addEventListener("click", () => choose(c, Math.min(column, mask.value ? T - 1 : c)));
      arcs.append(word);
    }
    const own = weights[row];
    arcs.append(make("circle", { cx: at(row), cy: 102, r: 2 + 7 * own, class: "own" }));
    arcs.setAttribute("aria-label", `Arcs from “${visible(tokens[row])}” to the tokens that ` +
      "it listens to; a thick arc is a large weight, the disc what it keeps of itself.");
  }

  function drawMap() {
    map.replaceChildren();
    for (let r = 0; r < T; r++) {
      const { weights } = steps(r);
      map.append(
        make("text", { x: left - 6, y: r * cell + cell / 2 + 4, "text-anchor": "end" }, visible(tokens[r])),
        make("text", { transform: `translate(${left + r * cell + cell / 2 + 4},${cell * T + 6}) rotate(90)` },
          visible(tokens[r])));
      for (let c = 0; c < T; c++) {
        if (hidden(r, c)) continue;
        const square = make("rect", { x: left + c * cell + 1, y: r * cell + 1, width: cell - 2,
          height: cell - 2, rx: 2, fill: "#2a86c8", "fill-opacity": (0.06 + 0.94 * weights[c]).toFixed(3) });
        square.addEventListener("pointerenter", () => choose(r, c));
        map.append(square);
      }
    }
    map.append(make("rect", { class: "chosen", width: cell, height: cell, rx: 3, "pointer-events": "none",
      x: left + column * cell, y: row * cell }));
  }

  function drawSums() {
    const { dots, scores: allowed, weights } = steps(row);
    const rows = tokens.map((token, c) => {
      const cells = hidden(row, c) ? ["−∞", "0", "0"]
        : [fixed(allowed[c]), written(Math.exp(allowed[c])), fixed(weights[c])];
      const line = make("tr", c === column ? { class: "now" } : {},
        make("th", { scope: "row" }, visible(token)), make("td", {}, fixed(dots[c], 1)),
        ...cells.map((words) => make("td", {}, words)));
      line.addEventListener("pointerenter", () => { if (!hidden(row, c)) choose(row, c); });
      return line;
    });
    const names = ["key of", "q · k", `score: / √${headDim}`, "e^score", "weight"];
    sums.replaceChildren(make("table", {},
      make("caption", {}, `The query of “${visible(tokens[row])}” meets every key`),
      make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows)));
  }

  function say() {
    const weight = steps(row).weights[column];
    said.textContent = `“${visible(tokens[row])}” listens to “${visible(tokens[column])}” ` +
      `with a weight of ${weight.toFixed(2)} (layer ${layer.value + 1}, head ${head.value + 1}).`;
    map.setAttribute("aria-label", said.textContent);
  }
  function choose(r, c) {
    const moved = r !== row;
    [row, column] = [r, c];
    drawArcs();
    if (moved || !sums.firstChild) drawSums();
    sums.querySelectorAll("tbody tr").forEach((line, i) => line.classList.toggle("now", i === column));
    const frame = map.querySelector(".chosen");
    frame.setAttribute("x", left + column * cell);
    frame.setAttribute("y", row * cell);
    say();
  }
  function draw() {
    if (hidden(row, column)) column = row;
    drawArcs(); drawMap(); drawSums(); say();
  }
  map.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
      ArrowRight: [0, 1], Home: [-T, -T], End: [T, T] };
    if (!(event.key in move)) return;
    event.preventDefault();
    const r = Math.min(T - 1, Math.max(0, row + move[event.key][0]));
    const most = mask.value ? T - 1 : r;
    choose(r, Math.min(most, Math.max(0, column + move[event.key][1])));
  });
  box.append(title("Try it: who listens to whom"), layer.label, head.label,
    ...(masks ? [mask.label] : []), arcs, said, make("div", { class: "side" }, map, sums));
  column = steps(row).weights.reduce((best, w, c, all) => (w > all[best] ? c : best), 0);
  draw();
};
