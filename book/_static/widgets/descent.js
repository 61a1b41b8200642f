/* Gradient steps: on the loss of one example (data-kind="example", the two tools), or in
   a narrow valley with SGD and Adam side by side (chapter 07). */
"use strict";
tinygptWidgets.widgets.descent = (box) => {
  const { make, slider, button, canvas, title, task, spoken, path, written } = tinygptWidgets;
  const example = box.dataset.kind === "example";
  // w * 2 + b should be 7; or a valley that is 25 times as steep across as along.
  const loss = example ? ([w, b]) => (2 * w + b - 7) ** 2 : ([a, b]) => (a * a + 25 * b * b) / 2;
  const gradient = example
    ? ([w, b]) => [4 * (2 * w + b - 7), 2 * (2 * w + b - 7)]
    : ([a, b]) => [a, 25 * b];
  const start = example ? [1, 1] : [-9, 3];
  const [x0, x1, y0, y1] = example ? [-1, 6, -1, 6] : [-10, 10, -4, 4];
  const names = example ? ["w", "b"] : ["first parameter", "second parameter"];
  const W = 460, H = 300, left = 40, top = 8, right = W - 8, bottom = H - 40;
  const x = (v) => left + (v - x0) / (x1 - x0) * (right - left);
  const y = (v) => bottom - (v - y0) / (y1 - y0) * (bottom - top);
  const svg = canvas(W, H), said = spoken();
  const rate = example
    ? slider("learning rate", { min: 0.01, max: 0.25, step: 0.01, value: 0.05 }, (v) => v.toFixed(2), restart)
    : slider("learning rate", { min: 0.01, max: 1.5, step: 0.01, value: 0.05 }, (v) => v.toFixed(2), restart);
  const ways = example ? [{ name: "step", colour: "#2a86c8", sgd: true }]
    : [{ name: "SGD", colour: "#d55e00", sgd: true }, { name: "Adam", colour: "#2a86c8", sgd: false }];

  function restart() {
    for (const way of ways) Object.assign(way, { points: [start], m: [0, 0], v: [0, 0] });
    draw();
  }
  /** One step: the slope itself, or Adam's ratio of its two means (Kingma and Ba, 2015). */
  function step(way) {
    const at = way.points.at(-1), slopes = gradient(at), n = way.points.length;
    const next = at.map((value, i) => {
      if (way.sgd) return value - rate.value * slopes[i];
      way.m[i] = 0.9 * way.m[i] + 0.1 * slopes[i];
      way.v[i] = 0.99 * way.v[i] + 0.01 * slopes[i] ** 2;
      return value - rate.value * (way.m[i] / (1 - 0.9 ** n)) / (Math.sqrt(way.v[i] / (1 - 0.99 ** n)) + 1e-8);
    });
    if (next.every((value) => Math.abs(value) < 1e9)) way.points.push(next);
  }
  function walk(times) {
    for (let n = 0; n < times; n++) ways.forEach(step);
    draw();
  }

  /** Where the loss has one of a few values: lines for the example, ellipses else. */
  function contours() {
    const levels = example ? [0, 1, 4, 16, 36] : [0.5, 4, 12, 30, 60, 100];
    return levels.flatMap((level) => {
      if (!example) {
        const around = [...Array(73).keys()].map((n) => n * Math.PI / 36);
        const [a, b] = [Math.sqrt(2 * level), Math.sqrt(2 * level / 25)];
        return [around.map((t) => [x(a * Math.cos(t)), y(b * Math.sin(t))])];
      }
      const root = Math.sqrt(level);
      return [...new Set([-root, root])].map((off) =>
        [x0, x1].map((w) => [x(w), y(7 + off - 2 * w)]));
    }).map((points) => make("path", { class: "contour", d: path(points), "clip-path": "inset(0)" }));
  }

  function draw() {
    const inside = make("svg", { x: left, y: top, width: right - left, height: bottom - top,
      viewBox: `${left} ${top} ${right - left} ${bottom - top}` });
    inside.append(...contours());
    for (const { points, colour } of ways) {
      const there = points.map(([a, b]) => [x(a), y(b)].map((v) => Math.min(9999, Math.max(-9999, v))));
      inside.append(make("path", { d: path(there), fill: "none", stroke: colour, "stroke-width": 2 }),
        ...there.map(([cx, cy]) => make("circle", { cx, cy, r: 3, fill: colour })));
    }
    svg.replaceChildren(inside,
      make("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }),
      make("text", { x: left, y: bottom + 16 }, written(x0)),
      make("text", { x: right, y: bottom + 16, "text-anchor": "end" }, written(x1)),
      make("text", { x: (left + right) / 2, y: bottom + 32, "text-anchor": "middle" }, names[0]),
      make("text", { x: left - 6, y: bottom, "text-anchor": "end" }, written(y0)),
      make("text", { x: left - 6, y: top + 10, "text-anchor": "end" }, written(y1)),
      make("text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, names[1]));
    said.textContent = ways.map((way) => {
      const at = way.points.at(-1), n = way.points.length - 1;
      const words = `${n} ${n === 1 ? "step" : "steps"}: loss ${loss(at) < 1e6 ? written(loss(at), 3) : "over a million"}`;
      return example ? `After ${words}, w = ${written(at[0])}, b = ${written(at[1])}.`
        : `${way.name} after ${words}.`;
    }).join(" ");
    svg.setAttribute("aria-label", "Lines of equal loss, and the way of the parameters. " + said.textContent);
  }
  const legend = ways.length > 1 ? [make("p", { class: "legend" }, ...ways.map(({ name, colour }) => {
    const dot = make("svg", { viewBox: "0 0 12 12", class: "key", "aria-hidden": "true" });
    dot.append(make("circle", { cx: 6, cy: 6, r: 5, fill: colour }));
    return make("span", {}, dot, ` ${name} `);
  }))] : [];
  box.append(title(example ? "Try it: one step after another" : "Try it: one rate for two directions"),
    task(example ? "Find the largest learning rate at which the loss still falls."
      : "Find SGD's fastest rate that arrives within 30 steps. What stops it from going faster? "
        + "Then give Adam a rate that is too large for it."),
    rate.label, ...legend, svg,
    make("div", { class: "buttons" }, button("One step", () => walk(1)),
      button("Thirty steps", () => walk(30)), button("From the start", restart)), said);
  restart();
};
