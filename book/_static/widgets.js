/* The course's interactive figures: plain SVG and native controls, no request outside.
   A page asks for one with <div class="tinygpt-widget" data-widget="wavelengths">...</div>,
   whose text stands there where no script runs. Each is a file in widgets/, which is
   fetched when its place comes near the window, and so are its data
   (data-data="attention_story"), which book/widget_data.py makes. */
"use strict";
(() => {
  const here = document.currentScript.src;

  // --- Shared: elements, controls, words --------------------------------------------

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
    return {
      label,
      get value() { return Number(input.value); },
      set value(number) { input.value = number; update(); },
    };
  }

  /** A labelled choice among words; its value is the place of the chosen one. */
  function choice(name, words, changed) {
    const select = make("select", {});
    words.forEach((word, i) => select.append(make("option", { value: i }, word)));
    select.addEventListener("change", changed);
    const label = make("label", {}, make("span", {}, name), select);
    return {
      label,
      get value() { return Number(select.value); },
      set value(place) { select.value = place; },
    };
  }

  const button = (words, pressed) => {
    const node = make("button", { type: "button" }, words);
    node.addEventListener("click", pressed);
    return node;
  };

  /** A small field for a number; what is no number leaves the last one in force. */
  function number(name, value, changed) {
    const input = make("input", { type: "number", step: "any", value, "aria-label": name });
    let last = value;
    input.addEventListener("input", () => {
      const typed = input.valueAsNumber;
      input.toggleAttribute("aria-invalid", !Number.isFinite(typed));
      if (Number.isFinite(typed) && Math.abs(typed) < 1e6) { last = typed; changed(); }
    });
    return { input, get value() { return last; } };
  }

  /** A table whose head row is `names`; cells are words, numbers or nodes. */
  function table(names, rows, caption) {
    const row = (tag, cells, scope) => make("tr", {},
      ...cells.map((cell) => make(tag, scope ? { scope } : {}, cell)));
    return make("table", {}, make("caption", {}, caption),
      make("thead", {}, row("th", names, "col")),
      make("tbody", {}, ...rows.map((cells) => row("td", cells))));
  }

  const canvas = (width, height) =>
    make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const title = (words) => make("p", { class: "title" }, words);
  const task = (words) => make("p", { class: "task" }, words);
  /** What is said aloud when it changes. */
  const spoken = () => make("output", { "aria-live": "polite" });

  const path = (points) => "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L");
  const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎");
  const percent = (p) => `${(100 * p).toFixed(p < 0.01 ? 2 : 1)} %`;
  /** A number as one writes it: at most so many digits, a true minus. */
  const written = (value, digits = 2) =>
    String(Number(value.toFixed(digits))).replace("-", "−");
  const fixed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
  /** Shares of 1: e^score over the sum of all. */
  function softmax(scores) {
    const most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }
  /** A repeatable stream of numbers in [0, 1): the generator "mulberry32". */
  function random(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  // --- Fetch and start --------------------------------------------------------------

  /** Run a script, once; `name` is looked for beside the widgets. (fetch() does not work
      from file://.) */
  const fetched = {};
  const fetchScript = (name) => (fetched[name] ??= new Promise((done, failed) => {
    const src = new URL(`widgets/${name}.js`, here).href;
    const script = make("script", { src });
    script.addEventListener("load", done);
    script.addEventListener("error", failed);
    document.head.append(script);
  }));

  const widgets = {};
  window.tinygptWidgets = {
    widgets, data: {},
    make, slider, choice, button, number, table, canvas, title, task, spoken,
    path, visible, percent, written, fixed, softmax, random, fetchScript,
  };

  async function start(box) {
    const { widget, data } = box.dataset;
    await Promise.all([fetchScript(widget), data && fetchScript(data)]);
    box.replaceChildren();  // a sentence for readers without scripts
    await widgets[widget](box, window.tinygptWidgets.data[data]);
    box.dataset.drawn = "";
  }

  document.addEventListener("DOMContentLoaded", () => {
    const near = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        start(target);
      }
    }, { rootMargin: "1000px" });
    document.querySelectorAll(".tinygpt-widget").forEach((box) => near.observe(box));
  });
})();
