/* The playground's parts that look inside the model: attention, the logit lens, parts
   switched off. `tinygptInside` makes them with the tools of playground_parts.js, which
   says what a part is. What it leaves out: all that is computed (playground_worker.js). */
"use strict";
globalThis.tinygptInside = (tools) => {
  const { make, visible, quoted, percent, button, caption, said, control, checkbox, chip } = tools;

  // --- Attention --------------------------------------------------------------------

  /** Weights [T, T] from `offset` on, as blue of their strength; a square a weight. */
  function paint(canvas, weights, offset, T) {
    canvas.width = canvas.height = T;
    const context = canvas.getContext("2d"), image = context.createImageData(T, T);
    for (let i = 0, to = 0; i < T * T; i++) {
      image.data[to++] = 42;
      image.data[to++] = 134;
      image.data[to++] = 200;
      image.data[to++] = 255 * Math.sqrt(weights[offset + i]);  // small ones show, too
    }
    context.putImageData(image, 0, 0);
  }

  let groups = 0;

  function attention(desk) {
    const group = `tinygpt-head-${groups++}`;
    let shape = null, got = null, layer = 0, head = 0;
    const mask = checkbox("mask: no token hears those behind it", () => refresh());
    mask.input.checked = true;
    const gallery = make("fieldset", { class: "gallery" });
    const map = make("canvas", { role: "img" }), mark = make("i");
    const big = make("div", { class: "map" }, map, mark);
    const row = control("the token that listens",
      { type: "range", min: 0, max: 0, step: 1, value: 0 }, () => read(),
      (place) => (got ? `${visible(got.tokens[place].text)} (${Number(place) + 1})` : ""));
    const chips = make("ol", { class: "tokens heard", dir: "auto", tabindex: 0,
      "aria-label": "How much it hears each token" });
    const words = said(), masked = said();

    function refresh() {
      desk.ask("attention", () => ({ isCausal: mask.input.checked }));
    }

    /** A small picture for every head; they are radio buttons, so arrow keys work. */
    function build({ n_layers: L, n_heads: H }) {
      [layer, head, shape, got] = [0, 0, { H }, null];
      gallery.replaceChildren(make("legend", {}, "Every layer (rows) and head (columns): choose one"));
      const grid = make("div");
      grid.style.gridTemplateColumns = `repeat(${H}, minmax(0, 4rem))`;
      for (let l = 0; l < L; l++) {
        for (let h = 0; h < H; h++) {
          const input = make("input", { type: "radio", name: group,
            "aria-label": `layer ${l + 1}, head ${h + 1}` });
          input.checked = l === 0 && h === 0;
          input.addEventListener("change", () => { [layer, head] = [l, h]; drawMap(); });
          grid.append(make("label", { title: `layer ${l + 1}, head ${h + 1}` }, input,
            make("canvas", { "aria-hidden": "true" })));
        }
      }
      gallery.append(grid);
    }

    const offset = (l, h) => (l * shape.H + h) * got.tokens.length ** 2;

    function draw() {
      const T = got.tokens.length;
      gallery.querySelectorAll("canvas").forEach((canvas, n) =>
        paint(canvas, got.weights, n * T * T, T));
      row.input.max = T - 1;
      row.input.value = T - 1;
      drawMap();
      masked.textContent = got.isCausal ? "" : "Without the mask the model hears its future, " +
        "as it never did while it learned. " + (got.best.id === got.other.id
        ? `Its next token stays ${quoted(got.best.text)}, ` +
          `${percent(got.best.chance)} before and ${percent(got.other.chance)} now.`
        : `Its next token changes from ${quoted(got.best.text)} (${percent(got.best.chance)}) ` +
          `to ${quoted(got.other.text)} (${percent(got.other.chance)}).`);
    }

    function drawMap() {
      if (!got) return;
      paint(map, got.weights, offset(layer, head), got.tokens.length);
      map.setAttribute("aria-label", `Map of layer ${layer + 1}, head ${head + 1}: ` +
        "a row for each token that listens, a column for each that is heard");
      read();
    }

    /** Read one row: who is heard how much. */
    function read() {
      if (!got) return;
      const T = got.tokens.length, t = Number(row.input.value);
      const from = offset(layer, head) + t * T;
      const shares = Array.from(got.weights.subarray(from, from + T));
      row.tell();
      mark.style.top = `${100 * t / T}%`;
      mark.style.height = `${100 / T}%`;
      chips.replaceChildren(...shares.map((share, s) => {
        const node = chip(got.tokens[s].text, s > t && got.isCausal ? "–" : percent(share));
        node.style.backgroundColor = `rgb(42 134 200 / ${(0.6 * Math.sqrt(share)).toFixed(3)})`;
        if (s === t) node.className = "me";
        return node;
      }));
      const best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 3)
        .filter((s) => shares[s] > 0.005)
        .map((s) => `${quoted(got.tokens[s].text)} ${percent(shares[s])}`);
      words.textContent = `Layer ${layer + 1}, head ${head + 1}: ` +
        `${quoted(got.tokens[t].text)} listens most to ${best.join(", ")}.`;
    }

    big.addEventListener("pointermove", (event) => {
      const { top, height } = map.getBoundingClientRect(), T = got?.tokens.length ?? 0;
      const t = Math.floor((event.clientY - top) / height * T);
      if (t < 0 || t >= T || String(t) === row.input.value) return;
      row.input.value = t;
      read();
    });

    return { title: "Attention: who listens to whom", refresh, hears: {
      loaded: ({ config }) => build(config),
      attention(message) { got = message; draw(); },
    }, nodes: [
      mask.label, gallery, make("div", { class: "pair" }, big,
        make("div", {}, row.label, chips, words)), masked,
    ] };
  }

  // --- The logit lens ---------------------------------------------------------------

  function lens(desk) {
    let tokens = null, chosen = null;  // the place that the reader chose
    const place = control("read at token", { type: "range", min: 0, max: 0, step: 1, value: 0 },
      () => { chosen = Number(place.input.value); ask(); },
      (t) => (tokens ? `${visible(tokens[t].text)} (${Number(t) + 1})` : ""));
    const body = make("tbody");
    const table = make("table", {}, make("thead", {}, make("tr", {},
      ...["after", "1st", "2nd", "3rd"]
        .map((name) => make("th", { scope: "col" }, name)))), body);
    const words = said();
    const ask = () => desk.ask("lens", () => ({ place: chosen }));
    return { title: "The logit lens: what it would say after each block",
      refresh() { chosen = null; ask(); },
      hears: { lens(message) {
        tokens = message.tokens;
        place.input.max = tokens.length - 1;
        if (chosen === null) place.input.value = message.place;
        place.tell();
        body.replaceChildren(...message.rows.map((best, n) => make("tr", {},
          make("th", { scope: "row" }, n ? `block ${n}` : "embedding"),
          ...best.map(({ text: token, chance }) => {
            const cell = make("td", {}, make("bdi", {}, visible(token)),
              make("small", {}, percent(chance)));
            cell.style.backgroundColor = `rgb(42 134 200 / ${(0.6 * Math.sqrt(chance)).toFixed(3)})`;
            return cell;
          }))));
        const last = message.rows.at(-1)[0];
        let since = message.rows.length - 1;
        while (since > 0 && message.rows[since - 1][0].id === last.id) since--;
        words.textContent = `After ${quoted(tokens[message.place].text)} the model says ` +
          `${quoted(last.text)}. It would have said so from ` +
          `${since ? `block ${since}` : "the embedding"} on.`;
      } },
      nodes: [place.label, table, words] };
  }

  // --- Parts switched off -----------------------------------------------------------

  function ablate(desk) {
    const parts = make("table", { class: "switches" });
    const words = said(), pairs = make("ol", { class: "bars both",
      "aria-label": "The likeliest next tokens, with all parts and without those switched off" });
    let boxes = [];
    const chosen = () => boxes.filter(({ input }) => input.checked && !input.disabled)
      .map(({ part }) => part);
    const refresh = () => desk.ask("ablate", () => desk.about({ without: chosen() }));
    const back = button("All parts back", () => {
      for (const { input } of boxes) input.checked = input.disabled = false;
      refresh();
    });

    function build({ n_layers: L, n_heads: H }) {
      boxes = [];
      const cell = (part, name, changed = () => {}) => {
        const input = make("input", { type: "checkbox", "aria-label": `leave out ${name}` });
        input.addEventListener("change", () => { changed(input.checked); refresh(); });
        boxes.push({ input, part });
        return make("td", {}, input);
      };
      const rows = Array.from({ length: L }, (_, l) => make("tr", {},
        make("th", { scope: "row" }, `block ${l + 1}`),
        cell(String(l), `block ${l + 1}`, (out) => {
          for (const { input, part } of boxes) if (part.startsWith(`${l}.`)) input.disabled = out;
        }),
        ...Array.from({ length: H }, (_, h) =>
          cell(`${l}.${h}`, `head ${h + 1} of block ${l + 1}`))));
      const heads = Array.from({ length: H }, (_, h) => make("th", { scope: "col" }, String(h + 1)));
      parts.replaceChildren(
        make("thead", {}, make("tr", {}, make("td"), make("th", { scope: "col" }, "all"), ...heads)),
        make("tbody", {}, ...rows));
    }

    const name = (part) => part.split(".").map((n, i) => `${["block", "head"][i]} ${Number(n) + 1}`)
      .reverse().join(" of ");
    return { title: "Switch parts off", refresh, hears: {
      loaded: ({ config }) => build(config),
      ablate({ without, rows, was, is }) {
        const most = Math.max(...rows.map(({ before, after }) => Math.max(before, after)));
        pairs.replaceChildren(...rows.map(({ text: token, before, after }) => {
          const strips = [before, after].map((share) => {
            const strip = make("i");
            strip.style.width = `${100 * share / most}%`;
            return strip;
          });
          return make("li", {}, make("bdi", {}, visible(token)),
            make("span", { class: "strip", "aria-hidden": "true" }, ...strips),
            make("span", {}, `${percent(before)} → ${percent(after)}`));
        }));
        words.textContent = !without.length ? "All parts are at work. Switch some off."
          : `Left out: ${without.map(name).join(", ")}. The likeliest next token ` +
            (was === is ? `stays ${quoted(was)}.` : `changes from ${quoted(was)} to ${quoted(is)}.`);
      },
    }, nodes: [
      caption("Leave out a whole block, or single heads of it"), parts,
      make("p", { class: "acts" }, back),
      caption("The next token at temperature 1: with all parts (grey), without these (blue)"), pairs, words,
    ] };
  }

  return { attention, lens, ablate };
};
