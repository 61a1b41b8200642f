/* What the views of a run share: elements, words, a head of attention, and a slider through
   the states of a run. train_view.js shows them below a run that goes on, and
   widgets/moments.js with one made beforehand. What it leaves out: the curve, all that is
   computed (train_worker.js). */
"use strict";
(() => {
  // --- Elements and words ---------------------------------------------------------------

  /** An HTML or SVG element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const isDrawn = ["svg", "path", "line", "circle", "text", "g"].includes(tag);
    const node = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function button(words, pressed) {
    const node = make("button", { type: "button" }, words);
    node.addEventListener("click", pressed);
    return node;
  }

  /** The code behind some global names, for a worker: file:// lets it load none. */
  const sourcesOf = (names) => names.map((name) => `${globalThis[name].source}\n`);
  const makeWorker = (names) => new Worker(
    URL.createObjectURL(new Blob(sourcesOf(names), { type: "text/javascript" })));

  const caption = (words) => make("p", { class: "caption" }, words);
  const whole = (n) => Math.round(n).toLocaleString("en");
  const percent = (share) => (share >= 0.0005 ? `${(100 * share).toFixed(1)}\u00a0%` : "<\u00a00.1\u00a0%");
  /** A text whose control characters can be seen: a fresh model writes as many as letters.
      If it is all white space, that is seen, too. */
  const visible = (text) => (/\S/.test(text) ? text : text.replaceAll("\n", "⏎").replaceAll(" ", "␣"))
    .replace(/[\0-\x08\x0b-\x1f\x7f]/g, "\ufffd");
  const quoted = (text) => `“${visible(text).replaceAll("\n", "⏎").replace(/^ /, "␣")}”`;

  // --- Attention ------------------------------------------------------------------------

  /** One head's weights as a picture, and its last row in words; the reader picks the head. */
  function attention() {
    const canvas = make("canvas", { role: "img" }), words = make("p", { class: "heard" });
    const pick = make("select");
    let got = null;

    function draw() {
      if (!got) return;
      const T = got.tokens.length, from = Number(pick.value) * T * T;
      const context = canvas.getContext("2d");
      canvas.width = canvas.height = T;
      const image = context.createImageData(T, T);
      for (let i = 0; i < T * T; i++) {
        image.data.set([42, 134, 200, 255 * Math.sqrt(got.weights[from + i])], 4 * i);
      }
      context.putImageData(image, 0, 0);
      const row = got.weights.subarray(from + (T - 1) * T, from + T * T);
      const best = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3)
        .map((s) => `${quoted(got.tokens[s])} ${percent(row[s])}`);
      words.textContent = `${quoted(got.tokens[T - 1])} attends most to ${best.join(", ")}.`;
      canvas.setAttribute("aria-label", `Attention of ${pick.selectedOptions[0].textContent}: ` +
        "a row for each token, a column for each that it attends to");
    }

    pick.addEventListener("change", draw);
    return {
      nodes: [make("div", { class: "pair" }, make("div", { class: "map" }, canvas),
        make("div", {}, make("label", {}, make("span", {}, "head"), pick), words))],
      shape({ n_layers: L, n_heads: H }) {
        got = null;
        pick.replaceChildren(...Array.from({ length: L * H }, (_, i) =>
          make("option", { value: i }, `block ${Math.floor(i / H) + 1}, head ${i % H + 1}`)));
      },
      show(found) { got = found; draw(); },
    };
  }

  // --- Through time ---------------------------------------------------------------------

  /** A slider over the states of a run, and what the model of that moment knows. `say(n)`
      tells what is known of the n-th state beside its step. */
  function history(wish, say = () => "") {
    const slider = make("input", { type: "range", min: 0, max: 0, step: 1, value: 0 });
    const when = make("span", { "aria-hidden": "true" });
    const prompt = make("input", { type: "text", dir: "auto", autocomplete: "off" });
    const text = make("p", { class: "text", dir: "auto" }), lens = make("ol", { class: "lens" });
    const near = make("p", { class: "near" }), eye = attention();
    const words = make("output", { "aria-live": "polite" });
    let steps = [], isBusy = false, waits = false;

    function look() {
      tell();
      if (isBusy) { waits = true; return; }
      isBusy = true;
      wish({ kind: "look", place: Number(slider.value), prompt: prompt.value });
    }

    function tell() {
      const place = Number(slider.value);
      when.textContent = steps.length ? `step ${whole(steps[place] ?? 0)}${say(place)}` : "";
      slider.setAttribute("aria-valuetext", when.textContent);
    }

    slider.addEventListener("input", look);
    prompt.addEventListener("change", look);
    const title = caption(""), timeline = make("label", {}, make("span", {}, "moment"), slider, when);
    const inside = make("div", { hidden: "" }, caption("It goes on"), text,
      caption("The likeliest next token after each block"), lens,
      caption("Neighbours of the last token in the embedding (1: same direction)"), near,
      caption("Attention in the prompt"), ...eye.nodes);
    const room = make("section", { hidden: "", class: "history" }, title, timeline,
      make("label", { class: "wide" }, make("span", {}, "prompt"), prompt), words, inside);
    return {
      room,
      begin(run, config) {
        steps = [...run.states];
        room.hidden = inside.hidden = true;
        title.textContent = "Through time: drag the slider to an earlier moment";
        eye.shape(config);
        prompt.value = "";
        grow();
      },
      add(step) {
        steps.push(step);
        grow();
      },
      suggest(words) { prompt.value ||= words.trim().split("\n")[0]; },  // the box has one line
      open(config, words) {
        steps = [];
        eye.shape(config);
        timeline.hidden = true;
        title.textContent = "Inside the opened model";
        room.hidden = false;
        prompt.value = words;
        look();
      },
      last() {
        if (!steps.length || !prompt.value) return;
        slider.value = steps.length - 1;
        look();
      },
      looked(found) {
        text.replaceChildren(found.prompt, make("mark", {}, visible(found.text)));
        lens.replaceChildren(...found.lens.map(({ text: token, share }) =>
          make("li", {}, make("bdi", {}, quoted(token)), ` ${percent(share)}`)));
        near.textContent = `${quoted(found.token)}: ${found.near.map(({ text: token, cosine }) =>
          `${quoted(token)} ${cosine.toFixed(2)}`).join(", ")}`;
        eye.show(found.attention);
        words.textContent = "";
        inside.hidden = false;
        settle();
      },
      failed(sentence) { words.textContent = sentence; settle(); },
    };

    function grow() {
      timeline.hidden = false;
      slider.max = Math.max(0, steps.length - 1);
      room.hidden = steps.length < 2;
      tell();
    }

    function settle() {
      isBusy = false;
      if (waits) { waits = false; look(); }
    }
  }

  globalThis.tinygptTrainParts = {
    make, button, sourcesOf, makeWorker, caption, whole, percent, visible, quoted, attention,
    history,
  };
})();
