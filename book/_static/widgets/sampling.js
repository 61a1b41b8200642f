/* Choosing the next token: temperature, top-k, top-p, and a draw (chapter 09). */
"use strict";
tinygptWidgets.widgets.sampling = (box, data) => {
  const { make, slider, button, canvas, title, task, spoken, visible, percent, softmax, random } =
    tinygptWidgets;
  const { prompt, tokens, logits } = data;  // sorted, the likeliest first
  const shown = 12, W = 460, left = 110, line = 22, H = shown * line + 26;
  const svg = canvas(W, H);
  const said = make("output"), drawn = spoken();
  const heat = slider("temperature", { min: 0.1, max: 2, step: 0.1, value: 1 },
    (t) => t.toFixed(1), draw);
  const k = slider("top-k", { min: 1, max: 51, step: 1, value: 51 },
    (n) => (n > 50 ? "all" : String(n)), draw);
  const p = slider("top-p", { min: 0.05, max: 1, step: 0.05, value: 1 }, (v) => v.toFixed(2), draw);
  const next = random(1);
  let lastDrawn = -1, history = [];

  function chosen() {
    // The order of tinygpt.generation: temperature, then top-k, then top-p.
    let list = softmax(logits.map((l) => l / heat.value)).slice(0, k.value > 50 ? undefined : k.value);
    let sum = list.reduce((a, b) => a + b);
    list = list.map((v) => v / sum);
    let before = 0;
    list = list.filter((v) => { const keep = p.value >= 1 || before < p.value; before += v; return keep; });
    sum = list.reduce((a, b) => a + b);
    return list.map((v) => v / sum);
  }
  function draw() {
    const plain = softmax(logits), now = chosen();
    const x = (v) => v * (W - left - 62);  // the axis stays: a whole width is 100 %
    svg.replaceChildren();
    for (let i = 0; i < shown; i++) {
      const y = i * line + 4, mine = now[i] ?? 0;
      svg.append(
        make("text", { x: left - 8, y: y + 13, "text-anchor": "end",
          "font-weight": i === lastDrawn ? "bold" : "normal" }, visible(tokens[i])),
        make("rect", { class: "bar", x: left, y, width: x(mine).toFixed(1), height: 16 }),
        make("rect", { class: "ghost", x: left, y, width: x(plain[i]).toFixed(1), height: 16 }),
        make("text", { x: left + x(Math.max(mine, plain[i])) + 6, y: y + 13 }, percent(mine)));
    }
    svg.append(make("line", { class: "axis", x1: left, x2: left + x(1), y1: H - 20, y2: H - 20 }),
      make("text", { x: left, y: H - 6 }, "0 %"),
      make("text", { x: left + x(1), y: H - 6, "text-anchor": "end" }, "probability 100 %"));
    const many = now.length === 1 ? "1 token" : `${now.length.toLocaleString("en")} tokens`;
    said.textContent = `${many} can be chosen. The likeliest, ` +
      `“${visible(tokens[0])}”, has ${percent(now[0])}; the model itself gave it ` +
      `${percent(plain[0])} (dashed).`;
    svg.setAttribute("aria-label", said.textContent);
  }
  function drawOne() {
    const now = chosen();
    let left = next();
    lastDrawn = now.findIndex((share) => (left -= share) < 0);
    if (lastDrawn < 0) lastDrawn = now.length - 1;  // a rounding error at the end
    const word = lastDrawn < tokens.length ? `“${visible(tokens[lastDrawn])}”`
      : `the token in place ${lastDrawn + 1}`;
    history = [...history.slice(-9), word];
    drawn.textContent = `Drawn: ${word} (${percent(now[lastDrawn])}). ` +
      `The last draws: ${history.join(", ")}.`;
    draw();
  }
  box.append(title("Try it: what comes after these words?"), make("p", {}, prompt),
    heat.label, k.label, p.label, svg, said, button("Draw a token", drawOne), drawn,
    task("Draw ten times at temperature 2, then ten times at 0.3. How many different tokens?"));
  draw();
};
