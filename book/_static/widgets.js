/* The course's interactive figures: plain SVG and native controls, no request outside.
   A page asks for one with <div class="tinygpt-widget" data-widget="wavelengths">...</div>,
   whose text stands there where no script runs.
   Real data lie beside this file in widget_data.js, which book/widget_data.py makes. */
"use strict";
(() => {
  const here = document.currentScript.src;

  // --- Shared: elements, controls, drawing ------------------------------------------

  /** An HTML or SVG element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "rect", "circle", "text", "g"].includes(tag);
    const node = svg
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** A labelled slider; `show` turns its number into words. */
  function slider(name, { min, max, step, value }, show, changed) {
    const input = make("input", { type: "range", min, max, step, value });
    const words = make("span", { "aria-hidden": "true" });
    const update = () => {
      words.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", words.textContent);
    };
    input.addEventListener("input", () => { update(); changed(); });
    update();
    const label = make("label", {}, make("span", {}, name), input, words);
    return { label, get value() { return Number(input.value); } };
  }

  /** A labelled choice among numbers 0..n-1, shown from 1. */
  function choice(name, n, changed) {
    const select = make("select", { "aria-label": name });
    for (let i = 0; i < n; i++) select.append(make("option", { value: i }, String(i + 1)));
    select.addEventListener("change", changed);
    const label = make("label", {}, make("span", {}, name), select);
    return { label, get value() { return Number(select.value); } };
  }

  const canvas = (width, height) =>
    make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const path = (points) => "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L");
  const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎");
  const percent = (p) => `${(100 * p).toFixed(p < 0.01 ? 2 : 1)} %`;

  // --- The waves of the positional encoding -----------------------------------------

  function wavelengths(box) {
    const width = 64, positions = 64, W = 460, H = 190, left = 34, top = 12;
    const x = (t) => left + (t / (positions - 1)) * (W - left - 12);
    const y = (v) => top + (1 - v) * (H - top - 40) / 2;
    const svg = canvas(W, H);
    const said = make("output");
    const pair = slider("pair of dimensions", { min: 0, max: width / 2 - 1, step: 1, value: 6 },
      (i) => `${2 * i} and ${2 * i + 1}`, draw);
    const place = slider("position", { min: 0, max: positions - 1, step: 1, value: 10 },
      (t) => `token ${t}`, draw);

    function draw() {
      const i = pair.value, t = place.value;
      const frequency = 10000 ** (-2 * i / width);
      const wave = (f) => path([...Array(4 * positions - 3).keys()]
        .map((n) => [x(n / 4), y(f(n / 4 * frequency))]));
      const sine = Math.sin(t * frequency), cosine = Math.cos(t * frequency);
      svg.replaceChildren(
        make("rect", { class: "frame", x: left, y: top, width: W - left - 12, height: H - top - 40 }),
        make("path", { class: "sine", d: wave(Math.sin) }),
        make("path", { class: "cosine", d: wave(Math.cos) }),
        make("line", { class: "mark", x1: x(t), x2: x(t), y1: top, y2: H - 28 }),
        make("circle", { class: "dot", cx: x(t), cy: y(sine), r: 5, fill: "#2a86c8" }),
        make("circle", { class: "dot", cx: x(t), cy: y(cosine), r: 5, fill: "#d55e00" }),
        make("text", { x: 26, y: y(1) + 4, "text-anchor": "end" }, "1"),
        make("text", { x: 26, y: y(-1) + 4, "text-anchor": "end" }, "−1"),
        make("text", { x: x(0), y: H - 12 }, "0"),
        make("text", { x: x(63), y: H - 12, "text-anchor": "end" }, "63"),
        make("text", { x: x(31.5), y: H - 12, "text-anchor": "middle" }, "position (tokens)"),
      );
      const length = 2 * Math.PI / frequency;
      const words = length < 100 ? length.toFixed(1) : Math.round(length).toLocaleString("en");
      said.textContent = `One wave is ${words} tokens long. At position ${t}, dimension ` +
        `${2 * i} (sine, solid) holds ${sine.toFixed(3)} and dimension ${2 * i + 1} ` +
        `(cosine, dashed) ${cosine.toFixed(3)}.`;
      svg.setAttribute("aria-label", said.textContent);
    }
    box.append(make("p", { class: "title" }, "Try it: the waves of 64 dimensions"),
      svg, pair.label, place.label, said);
    draw();
  }

  // --- Who listens to whom ----------------------------------------------------------

  function attention(box, data) {
    const { tokens, weights } = data.attention;
    const T = tokens.length, left = 92, cell = Math.floor((460 - left) / T);
    const W = left + cell * T + 2, H = cell * T + 96;
    const svg = canvas(W, H);
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "application");
    svg.setAttribute("aria-roledescription", "attention map");
    const said = make("output");
    const layer = choice("layer", weights.length, draw);
    const head = choice("head", weights[0].length, draw);
    let [row, column] = [T - 1, 0];

    function draw() {
      const table = weights[layer.value][head.value];
      svg.replaceChildren();
      for (let r = 0; r < T; r++) {
        svg.append(make("text", { x: left - 6, y: r * cell + cell / 2 + 4, "text-anchor": "end" },
          visible(tokens[r])));
        svg.append(make("text", {
          transform: `translate(${left + r * cell + cell / 2 + 4},${cell * T + 6}) rotate(90)` },
          visible(tokens[r])));
        for (let c = 0; c <= r; c++) {
          const square = make("rect", { x: left + c * cell + 1, y: r * cell + 1,
            width: cell - 2, height: cell - 2, rx: 2, fill: "#2a86c8",
            "fill-opacity": (0.06 + 0.94 * table[r][c]).toFixed(3) });
          square.addEventListener("pointerenter", () => { [row, column] = [r, c]; mark(); });
          svg.append(square);
        }
      }
      svg.append(make("rect", { class: "chosen", width: cell, height: cell, rx: 3,
        "pointer-events": "none", fill: "none" }));
      mark();
    }
    function mark() {
      const frame = svg.querySelector(".chosen");
      frame.setAttribute("x", left + column * cell);
      frame.setAttribute("y", row * cell);
      const weight = weights[layer.value][head.value][row][column];
      said.textContent = `“${visible(tokens[row])}” listens to “${visible(tokens[column])}” ` +
        `with a weight of ${weight.toFixed(2)} (layer ${layer.value + 1}, head ${head.value + 1}).`;
      svg.setAttribute("aria-label", said.textContent);
    }
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
        ArrowRight: [0, 1], Home: [-T, -T], End: [T, T] };
      if (!(event.key in move)) return;
      event.preventDefault();
      row = Math.min(T - 1, Math.max(0, row + move[event.key][0]));
      column = Math.min(row, Math.max(0, column + move[event.key][1]));
      mark();
    });
    said.setAttribute("aria-live", "polite");
    box.append(make("p", { class: "title" }, "Try it: who listens to whom"),
      layer.label, head.label, svg, said);
    draw();
  }

  // --- Choosing the next token ------------------------------------------------------

  function sampling(box, data) {
    const { prompt, tokens, logits } = data.sampling;  // sorted, the likeliest first
    const shown = 12, W = 460, left = 110, line = 22, H = shown * line + 8;
    const svg = canvas(W, H);
    const said = make("output");
    const text = make("p", {}, prompt);
    const heat = slider("temperature", { min: 0.1, max: 2, step: 0.1, value: 1 },
      (t) => t.toFixed(1), draw);
    const k = slider("top-k", { min: 1, max: 51, step: 1, value: 51 },
      (n) => (n > 50 ? "all" : String(n)), draw);
    const p = slider("top-p", { min: 0.05, max: 1, step: 0.05, value: 1 }, (v) => v.toFixed(2), draw);

    function softmax(temperature) {
      const powers = logits.map((l) => Math.exp((l - logits[0]) / temperature));
      const sum = powers.reduce((a, b) => a + b);
      return powers.map((v) => v / sum);
    }
    function chosen() {
      // The order of tinygpt.generation: temperature, then top-k, then top-p.
      let list = softmax(heat.value).slice(0, k.value > 50 ? undefined : k.value);
      let sum = list.reduce((a, b) => a + b);
      list = list.map((v) => v / sum);
      let before = 0;
      list = list.filter((v) => { const keep = p.value >= 1 || before < p.value; before += v; return keep; });
      sum = list.reduce((a, b) => a + b);
      return list.map((v) => v / sum);
    }
    function draw() {
      const plain = softmax(1), now = chosen();
      const most = Math.max(plain[0], now[0]), x = (v) => (v / most) * (W - left - 62);
      svg.replaceChildren();
      for (let i = 0; i < shown; i++) {
        const y = i * line + 4, mine = now[i] ?? 0;
        svg.append(
          make("text", { x: left - 8, y: y + 13, "text-anchor": "end" }, visible(tokens[i])),
          make("rect", { class: "bar", x: left, y, width: x(mine).toFixed(1), height: 16 }),
          make("rect", { class: "ghost", x: left, y, width: x(plain[i]).toFixed(1), height: 16 }),
          make("text", { x: left + x(Math.max(mine, plain[i])) + 6, y: y + 13 }, percent(mine)));
      }
      const many = now.length === 1 ? "1 token" : `${now.length.toLocaleString("en")} tokens`;
      said.textContent = `${many} can be chosen. The likeliest, ` +
        `“${visible(tokens[0])}”, has ${percent(now[0])}; the model itself gave it ` +
        `${percent(plain[0])} (dashed).`;
      svg.setAttribute("aria-label", said.textContent);
    }
    box.append(make("p", { class: "title" }, "Try it: what comes after these words?"), text,
      heat.label, k.label, p.label, svg, said);
    draw();
  }

  // --- Start ------------------------------------------------------------------------

  const widgets = { wavelengths, attention, sampling };
  const needData = ["attention", "sampling"];

  document.addEventListener("DOMContentLoaded", () => {
    const boxes = [...document.querySelectorAll(".tinygpt-widget")];
    const fill = (data) => {
      for (const box of boxes) {
        const name = box.dataset.widget;
        if (box.dataset.drawn || !(name in widgets)) continue;
        if (needData.includes(name) && !data) continue;
        box.dataset.drawn = "";
        box.replaceChildren();  // a sentence for readers without scripts
        widgets[name](box, data);
      }
    };
    fill(null);
    if (boxes.some((box) => needData.includes(box.dataset.widget))) {
      // A script, for fetch() does not work from file://.
      const script = make("script", { src: here.replace("widgets.js", "widget_data.js") });
      script.addEventListener("load", () => fill(window.tinygptData));
      document.head.append(script);
    }
  });
})();
