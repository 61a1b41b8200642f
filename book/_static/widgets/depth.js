/* How a signal and its gradient fare in a deep pile of layers (chapter 06). */
"use strict";
tinygptWidgets.widgets.depth = (box) => {
  const { make, slider, choice, canvas, title, task, spoken, path, random } = tinygptWidgets;
  const C = 32, most = 24;  // the width of a vector, the greatest depth
  const W = 460, H = 260, left = 58, top = 10, right = W - 10, bottom = H - 42;
  const kinds = ["x = f(x)", "x = x + f(x)", "x = x + f(norm(x))"];
  const kind = choice("each layer", kinds, draw);
  const layers = slider("layers", { min: 1, max: most, step: 1, value: 12 }, String, draw);
  const size = slider("size of the weights", { min: 0.5, max: 2, step: 0.1, value: 1 },
    (v) => v.toFixed(1), draw);
  const svg = canvas(W, H), said = spoken();

  /** Random matrices with variance 1 / C, the same ones every time. */
  const next = random(7);
  const gauss = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  const matrices = [...Array(most)].map(() =>
    [...Array(C)].map(() => [...Array(C)].map(() => gauss() / Math.sqrt(C))));
  const input = [...Array(C)].map(gauss);
  const above = [...Array(C)].map(gauss);  // the gradient that comes from the loss

  const length = (v) => Math.sqrt(v.reduce((sum, n) => sum + n * n, 0) / v.length);
  const times = (m, v) => m.map((row) => row.reduce((sum, n, i) => sum + n * v[i], 0));
  const back = (m, v) => v.map((_, j) => m.reduce((sum, row, i) => sum + row[j] * v[i], 0));
  const plus = (a, b) => a.map((n, i) => n + b[i]);
  const scaled = (v, by) => v.map((n) => n * by);

  /** Typical sizes of activations and gradients after each layer; f(x) = tanh(W x). */
  function run() {
    const residual = kind.value > 0, norm = kind.value === 2;
    const seen = [input], inner = [];
    for (let n = 0; n < layers.value; n++) {
      const x = seen.at(-1), scale = norm ? 1 / length(x) : 1;
      const f = times(matrices[n], scaled(x, scale * size.value)).map(Math.tanh);
      inner.push({ f, scale, x });
      seen.push(residual ? plus(x, f) : f);
    }
    const gradients = [above];
    for (let n = layers.value - 1; n >= 0; n--) {
      const g = gradients[0], { f, scale, x } = inner[n];
      let way = scaled(back(matrices[n], g.map((v, i) => v * (1 - f[i] ** 2))), size.value);
      if (norm) {  // backwards through x / |x|: what points along x has no effect
        const along = x.reduce((sum, v, i) => sum + v * way[i], 0) * scale ** 2 / C;
        way = way.map((v, i) => scale * (v - along * x[i]));
      }
      gradients.unshift(residual ? plus(g, way) : way);
    }
    return [seen.map(length), gradients.map(length)];
  }

  function draw() {
    const [signal, gradient] = run();
    const low = -6, high = 3;
    const x = (n) => left + (n / layers.value) * (right - left);
    const y = (v) => bottom - (Math.min(high, Math.max(low, Math.log10(v))) - low) / (high - low) * (bottom - top);
    const line = (values) => path(values.map((v, n) => [x(n), y(v)]));
    svg.replaceChildren(
      make("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }),
      make("line", { class: "mark", x1: left, x2: right, y1: y(1), y2: y(1) }),
      make("path", { class: "sine", d: line(signal) }),
      make("path", { class: "cosine", d: line(gradient) }),
      ...[-6, -3, 0, 3].map((n) => make("text", { x: left - 6, y: y(10 ** n) + 4, "text-anchor": "end" },
        n === 0 ? "1" : n > 0 ? "1000" : n === -3 ? "0.001" : "10⁻⁶")),
      make("text", { x: left, y: bottom + 16 }, "0"),
      make("text", { x: right, y: bottom + 16, "text-anchor": "end" }, String(layers.value)),
      make("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, "layer"));
    const words = (v) => (v >= 0.01 ? v.toFixed(2) : v.toExponential(0).replace("e-", " · 10^−"));
    said.textContent = `After ${layers.value} layers the activations (solid) have the size ` +
      `${words(signal.at(-1))}; of a gradient (dashed) of size 1 at the top, ${words(gradient[0] / gradient.at(-1))} ` +
      "arrives at the bottom.";
    svg.setAttribute("aria-label", said.textContent);
  }
  box.append(title("Try it: a deep pile of layers"),
    task("Make the weights 0.5 without and with the addition: what is left of the gradient after 24 layers? "
      + "Then make them 2."),
    kind.label, layers.label, size.label, svg, said);
  draw();
};
