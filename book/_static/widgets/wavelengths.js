/* The waves of the positional encoding, and how alike two positions are (chapter 03). */
"use strict";
tinygptWidgets.widgets.wavelengths = (box) => {
  const { make, slider, canvas, title, task, spoken, path, fixed } = tinygptWidgets;
  const width = 64, positions = 64, W = 460, H = 190, left = 34, top = 12;
  const frequency = (i) => 10000 ** (-2 * i / width);
  const x = (t) => left + (t / (positions - 1)) * (W - left - 12);
  const y = (v) => top + (1 - v) * (H - top - 40) / 2;
  const waves = canvas(W, H), print = canvas(W, 86);
  const said = spoken();
  const pair = slider("pair of dimensions", { min: 0, max: width / 2 - 1, step: 1, value: 6 },
    (i) => `${2 * i} and ${2 * i + 1}`, draw);
  const one = slider("position", { min: 0, max: positions - 1, step: 1, value: 10 },
    (t) => `token ${t}`, draw);
  const other = slider("compare with", { min: 0, max: positions - 1, step: 1, value: 13 },
    (t) => `token ${t}`, draw);

  /** All 64 numbers of a position. */
  const encoding = (t) => [...Array(width).keys()].map((d) =>
    (d % 2 ? Math.cos : Math.sin)(t * frequency(d >> 1)));

  function drawWaves(i, t) {
    const wave = (f) => path([...Array(4 * positions - 3).keys()]
      .map((n) => [x(n / 4), y(f(n / 4 * frequency(i)))]));
    waves.replaceChildren(
      make("rect", { class: "frame", x: left, y: top, width: W - left - 12, height: H - top - 40 }),
      make("path", { class: "sine", d: wave(Math.sin) }),
      make("path", { class: "cosine", d: wave(Math.cos) }),
      make("line", { class: "mark", x1: x(t), x2: x(t), y1: top, y2: H - 28 }),
      make("circle", { class: "dot", cx: x(t), cy: y(Math.sin(t * frequency(i))), r: 5, fill: "#2a86c8" }),
      make("circle", { class: "dot", cx: x(t), cy: y(Math.cos(t * frequency(i))), r: 5, fill: "#d55e00" }),
      make("text", { x: 26, y: y(1) + 4, "text-anchor": "end" }, "1"),
      make("text", { x: 26, y: y(-1) + 4, "text-anchor": "end" }, "−1"),
      make("text", { x: x(0), y: H - 12 }, "0"),
      make("text", { x: x(63), y: H - 12, "text-anchor": "end" }, "63"),
      make("text", { x: x(31.5), y: H - 12, "text-anchor": "middle" }, "position (tokens)"),
    );
  }

  /** The two positions as two rows of 64 cells: their fingerprints. */
  function drawPrints(i, a, b) {
    const cell = (W - 92) / width;
    print.replaceChildren();
    [a, b].forEach((t, row) => {
      print.append(make("text", { x: 78, y: 22 + 26 * row, "text-anchor": "end" }, `token ${t}`));
      encoding(t).forEach((v, d) => print.append(make("rect", {
        x: 86 + d * cell, y: 8 + 26 * row, width: cell, height: 20,
        fill: v < 0 ? "#d55e00" : "#2a86c8", "fill-opacity": Math.abs(v).toFixed(2) })));
    });
    print.append(
      make("rect", { class: "chosen", x: 86 + 2 * i * cell, y: 7, width: 2 * cell, height: 48 }),
      make("text", { x: 86, y: 76 }, "dimension 0"),
      make("text", { x: W - 6, y: 76, "text-anchor": "end" }, "63"));
  }

  function draw() {
    const i = pair.value, t = one.value, s = other.value;
    drawWaves(i, t);
    drawPrints(i, t, s);
    const length = 2 * Math.PI / frequency(i);
    const words = length < 100 ? length.toFixed(1) : Math.round(length).toLocaleString("en");
    const [a, b] = [encoding(t), encoding(s)];
    const product = a.reduce((sum, v, d) => sum + v * b[d], 0);
    said.textContent = `One wave is ${words} tokens long. At position ${t}, dimension ` +
      `${2 * i} (sine, solid) holds ${fixed(Math.sin(t * frequency(i)), 3)} and dimension ` +
      `${2 * i + 1} (cosine, dashed) ${fixed(Math.cos(t * frequency(i)), 3)}. The dot product ` +
      `of positions ${t} and ${s} is ${fixed(product, 1)}.`;
    waves.setAttribute("aria-label", said.textContent);
    print.setAttribute("aria-label", `The 64 numbers of positions ${t} and ${s}: blue is ` +
      "above zero, orange below; the frame marks the chosen pair.");
  }
  box.append(title("Try it: the waves of 64 dimensions"),
    task("Find two pairs of positions, three tokens apart: is their dot product the same?"),
    waves, pair.label, one.label, print, other.label, said);
  draw();
};
