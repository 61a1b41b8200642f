/* The playground: a prompt, its tokens, what may come next, and a model that writes on.
   A page asks for it with <div class="tinygpt-playground" data-model="FOLDER"></div>, the
   folder below _static that holds a model.js. Nothing is fetched before the reader
   presses start. The model (tinygpt.js) works in a Web Worker, so the page never waits.
   What it leaves out: the model itself, and looking inside it. */
"use strict";
(() => {
  const here = document.currentScript.src;
  const SHOWN = 300;  // tokens drawn; a long text would only make the page slow
  const BARS = 12;
  const STRETCH = 200;  // tokens per press on "Write on"

  // --- The worker's side: written here, run there ------------------------------------

  /** Holds the model and the text; answers every message with what changed. */
  function work() {
    const { TinyGPT } = globalThis;
    const END = 30;  // milliseconds between two looks at the page's wishes
    let model, tokenizer, cache, seen = [], ids = [], random, logits, running = 0;

    /** Logits for the token after `ids`; what the cache holds already stays. */
    function look() {
      const room = model.config.context_length;
      const view = ids.length ? ids.slice(TinyGPT.windowStart(ids.length, room))
        : [tokenizer.endOfText ?? tokenizer.encode("\n")[0]];
      let same = 0;
      while (same < view.length - 1 && same < seen.length && view[same] === seen[same]) same++;
      cache.length = same;
      logits = model.nextLogits(view.slice(same), cache);
      seen = view;
    }

    /** What the page draws: the newest tokens, and the likeliest next ones. */
    function show(from, { settings, sizes }, extra = {}) {
      const chances = TinyGPT.nextTokenProbabilities(logits, settings);
      const best = [...chances.keys()].filter((id) => chances[id] > 0)
        .sort((a, b) => chances[b] - chances[a] || logits[b] - logits[a] || a - b);
      const token = (id) => ({ id, text: tokenizer.decode([id]) });
      const room = model.config.context_length;
      postMessage({
        kind: "state",
        tokens: ids.slice(Math.max(from, ids.length - sizes.tokens)).map(token),
        n: ids.length,
        viewed: Math.min(seen.length, room),
        possible: best.length,
        bars: best.slice(0, sizes.bars).map((id) => ({ ...token(id), chance: chances[id] })),
        ...extra,
      });
    }

    const pause = () => new Promise((done) => {
      const { port1, port2 } = new MessageChannel();  // setTimeout would wait longer
      port1.onmessage = () => { port1.close(); done(); };
      port2.postMessage(null);
    });

    const acts = {
      load({ file, bytes }) {
        const made = file ? TinyGPT.buildModel(file) : TinyGPT.readModel(bytes);
        ({ model, tokenizer } = made);
        [cache, seen, ids] = [model.newCache(), [], []];
        postMessage({ kind: "loaded", tokenizer: tokenizer.name, config: model.config });
      },
      prompt(wish) {
        ids = tokenizer.encode(wish.text);
        random = TinyGPT.seededRandom(wish.settings.seed);
        look();
        show(0, wish, { written: "", begins: true });
      },
      settings(wish) {
        if (wish.settings.fresh) random = TinyGPT.seededRandom(wish.settings.seed);
        show(ids.length, wish);
      },
      choose(wish) {
        ids.push(wish.id);
        look();
        show(ids.length - 1, wish, { written: tokenizer.decode(ids.slice(wish.start)) });
      },
      stop() {},
      async write(wish) {
        const mine = running, began = performance.now(), first = ids.length;
        let shown = first, paused = began, ended = false;
        for (let n = 0; n < wish.count && mine === running && !ended; n++) {
          const token = TinyGPT.sampleNextToken(logits, wish.settings, random);
          ids.push(token);
          look();
          ended = token === tokenizer.endOfText;
          if (performance.now() - paused < END) continue;
          show(shown, wish, { written: tokenizer.decode(ids.slice(wish.start)), more: true });
          shown = ids.length;
          await pause();
          paused = performance.now();
        }
        const speed = (ids.length - first) / (performance.now() - began) * 1000;
        const written = tokenizer.decode(ids.slice(wish.start));
        const done = ids.length - first;
        show(shown, wish, { written, speed, ended, done });
      },
    };

    globalThis.onmessage = async ({ data }) => {
      running++;  // whatever comes, the stretch being written ends
      try {
        await acts[data.kind](data);
      } catch (error) {
        const own = error instanceof TinyGPT.UserError;
        const sentence = own ? error.message : `The model stopped: ${error.message}`;
        postMessage({ kind: "error", sentence });
      }
    };
  }

  // --- Elements ---------------------------------------------------------------------

  /** An HTML element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** A token's text with everything visible that would not show, or would turn the line. */
  function visible(text) {
    const names = { "\n": "⏎", "\t": "⇥", " ": "·", "\x7f": "␡" };
    return text.replace(/[\0- \x7f]|[\p{Cf}\p{Zl}\p{Zp}\x80-\x9f\xa0]/gu, (sign) => {
      const code = sign.codePointAt(0);
      if (names[sign]) return names[sign];
      if (code < 32) return String.fromCodePoint(0x2400 + code);
      return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
    });
  }

  const percent = (share) => (share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %");
  const many = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  /** Load a script; its `load` event comes after it has run. */
  function script(source) {
    return new Promise((done, failed) => {
      const node = make("script", { src: source });
      node.addEventListener("load", () => { node.remove(); done(); });
      node.addEventListener("error", () => {
        node.remove();
        failed(new Error(`${source.split("/").slice(-2).join("/")} is not beside this page`));
      });
      document.head.append(node);
    });
  }

  // --- The page's side ----------------------------------------------------------------

  function playground(box) {
    const folder = box.dataset.model, file = (name) => here.replace("playground.js", name);
    let worker = null, promptLength = 0, busy = false, wish = null;

    // Before the start.
    const start = make("button", { type: "button", class: "start" },
      `Start (loads ${box.dataset.size ?? "the model"})`);
    const own = make("input", { type: "file", accept: ".js" });
    const status = make("output", { class: "status", "aria-live": "polite" });
    const ownLabel = make("label", {},
      make("span", {}, "or your own model.js (drop it here, too)"), own);
    box.append(make("p", { class: "row" }, start), ownLabel);

    // After it.
    const prompt = make("textarea", { rows: 3, dir: "auto", spellcheck: "false" });
    prompt.value = box.dataset.prompt ?? "The salesperson asks the";
    const range = (name, attributes) => {
      const input = make("input", attributes), value = make("span", { "aria-hidden": "true" });
      const tell = () => { value.textContent = input.type === "range" ? input.value : ""; };
      input.addEventListener("input", () => { tell(); ask("settings", { fresh: name === "seed" }); });
      tell();
      return { input, label: make("label", {}, make("span", {}, name), input, value) };
    };
    const heat = range("temperature", { type: "range", min: 0, max: 2, step: 0.1, value: 0.8 });
    const topK = range("top-k (0: all)", { type: "number", min: 0, step: 1, value: 0 });
    const topP = range("top-p", { type: "range", min: 0.05, max: 1, step: 0.05, value: 1 });
    const seed = range("seed", { type: "number", min: 0, max: 2 ** 32 - 1, step: 1, value: 1 });
    const button = (words) => make("button", { type: "button" }, words);
    const step = button("One token"), stream = button("Write on"), again = button("Back to the prompt");
    const count = make("span", { class: "count" });
    const tokens = make("ol", { class: "tokens", dir: "auto", tabindex: 0,
      "aria-label": "Tokens and their ids" });
    const text = make("p", { class: "text", dir: "auto", tabindex: 0 });  // it may scroll
    const bars = make("ol", { class: "bars", "aria-label": "The likeliest next tokens" });
    const room = make("div", { hidden: "" },
      make("label", { class: "wide" }, make("span", {}, "prompt"), prompt),
      make("p", { class: "caption" }, "Its tokens: ", count), tokens,
      make("p", { class: "caption" }, "The text so far"), text,
      make("p", { class: "row" }, step, stream, again),
      make("div", { class: "controls" }, heat.label, topK.label, topP.label, seed.label),
      make("p", { class: "caption" }, "What may come next (choose one to write it)"), bars);
    box.append(status, room);
    const say = (sentence) => { status.textContent = sentence; };

    function settings() {
      const whole = (input, least) => Math.max(least, Math.floor(Number(input.value)) || 0);
      const k = whole(topK.input, 0);
      return { temperature: Number(heat.input.value), topK: k || null,
        topP: Number(topP.input.value), seed: whole(seed.input, 0) };
    }

    /** Send a wish to the worker; while it works, only the newest wish waits. */
    function ask(kind, more = {}) {
      if (!worker) return;
      const message = { kind, sizes: { tokens: SHOWN, bars: BARS }, start: promptLength, ...more };
      message.settings = { ...settings(), fresh: more.fresh };
      if (busy && kind !== "stop" && kind !== "load") {
        if (wish === null || wish.kind !== "prompt" || kind === "prompt") wish = message;
        if (stream.textContent === "Stop") worker.postMessage({ kind: "stop" });
        return;
      }
      if (kind === "prompt") message.text = prompt.value;
      busy = kind !== "stop";
      worker.postMessage(message);
    }

    function send() {
      busy = false;
      if (wish === null) return;
      const message = wish;
      wish = null;
      ask(message.kind, message.kind === "prompt" ? {} : message);
    }

    function draw(state) {
      if (state.begins) tokens.replaceChildren();
      const first = state.n - state.tokens.length;
      state.tokens.forEach(({ id, text: token }, n) => {
        const place = first + n;
        const chip = make("li", { class: `c${place % 5}${place >= promptLength ? " new" : ""}` },
          make("bdi", {}, visible(token)), make("small", {}, String(id)));
        tokens.append(chip);
      });
      while (tokens.childElementCount > SHOWN) tokens.firstChild.remove();
      tokens.scrollTop = tokens.scrollHeight;
      const hidden = state.n - tokens.childElementCount;
      count.textContent = many(state.n, "token") +
        (hidden ? `, the last ${SHOWN} shown` : "") +
        (state.viewed < state.n ? `; the model sees the last ${state.viewed}` : "");
      if (state.written !== undefined) {
        text.replaceChildren(prompt.value.slice(-4000), make("mark", {}, state.written));
        text.scrollTop = text.scrollHeight;
      }
      const most = state.bars[0]?.chance ?? 1;
      while (bars.childElementCount > state.bars.length) bars.lastChild.remove();
      state.bars.forEach(({ id, text: token, chance }, n) => {
        const row = bars.children[n] ?? bars.appendChild(make("li", {}, bar()));
        const [name, strip, number] = row.firstChild.children;
        row.firstChild.dataset.id = id;
        name.textContent = visible(token);
        strip.firstChild.style.width = `${100 * chance / most}%`;
        number.textContent = percent(chance);
      });
    }

    function bar() {
      const node = make("button", { type: "button" }, make("bdi"),
        make("span", { class: "strip", "aria-hidden": "true" }, make("i")), make("span"));
      node.addEventListener("click", () => {
        say(`Wrote “${node.firstChild.textContent}”.`);
        ask("choose", { id: Number(node.dataset.id) });
      });
      return node;
    }

    function finish(state) {
      const piece = state.done === 1 ? `Wrote “${visible(state.tokens.at(-1)?.text ?? "")}”`
        : `Wrote ${many(state.done, "token")}`;
      say(`${piece}, ${Math.round(state.speed)} tokens per second` +
        `${state.ended ? "; the text has ended" : ""}.`);
    }

    const heard = {
      loaded({ config, tokenizer }) {
        room.hidden = false;
        say(`The model is here: ${many(config.n_layers, "block")}, ` +
          `${many(config.n_heads, "head")}, a context of ${many(config.context_length, "token")}, ` +
          `the vocabulary ${tokenizer}.`);
        start.disabled = false;
        busy = false;
        ask("prompt");
      },
      state(state) {
        if (state.begins) promptLength = state.n;
        requestAnimationFrame(() => draw(state));
        if (state.more) return;
        if (state.done !== undefined) {
          finish(state);
          stream.textContent = "Write on";
        }
        send();
      },
      error({ sentence }) {
        say(sentence);
        start.disabled = false;
        stream.textContent = "Write on";
        send();
      },
    };

    /** Make the worker if need be, and hand it a model. */
    async function load(get) {
      start.disabled = true;
      wish = null;
      say("Loading …");
      try {
        if (!globalThis.TinyGPT) await script(file("tinygpt.js"));
        const model = await get();
        if (!worker) {
          const code = `${globalThis.TinyGPT.source}\n(${work})();`;
          const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
          worker = new Worker(url);
          worker.onmessage = ({ data }) => heard[data.kind](data);
          worker.onerror = (event) => heard.error({ sentence: `The worker failed: ${event.message}` });
        }
        ask("load", model);
      } catch (error) {
        say(`${error.message}.`);
        start.disabled = false;
      }
    }

    async function fromFolder() {
      globalThis.tinygptModel = undefined;
      await script(file(`${folder}/model.js`));
      const found = globalThis.tinygptModel;
      globalThis.tinygptModel = undefined;
      if (!found) throw new Error("The model file is cut off or no model file: copy it anew");
      return { file: found };
    }

    const fromFile = (chosen) => async () => {
      if (chosen.size > globalThis.TinyGPT.LARGEST) {
        throw new Error(`The file has ${Math.round(chosen.size / 1e6)} MB, more than a page can hold`);
      }
      return { bytes: await chosen.arrayBuffer() };
    };

    start.addEventListener("click", () => load(fromFolder));
    own.addEventListener("change", () => { if (own.files[0]) load(fromFile(own.files[0])); });
    box.addEventListener("dragover", (event) => event.preventDefault());
    box.addEventListener("drop", (event) => {
      const [dropped] = event.dataTransfer.files;
      if (!dropped) return;
      event.preventDefault();
      load(fromFile(dropped));
    });
    prompt.addEventListener("input", () => ask("prompt"));
    again.addEventListener("click", () => { say("Back to the prompt."); ask("prompt"); });
    step.addEventListener("click", () => ask("write", { count: 1 }));
    stream.addEventListener("click", () => {
      if (stream.textContent === "Stop") {
        worker.postMessage({ kind: "stop" });
        return;
      }
      stream.textContent = "Stop";
      say("Writing …");
      ask("write", { count: STRETCH });
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const box of document.querySelectorAll(".tinygpt-playground")) playground(box);
  });
})();
