/* The playground's parts: the text and its tokens, what may come next, a chat; those that
   look inside the model are in playground_inside.js. Each part is a function of the desk,
   which carries wishes to the worker, and gives { nodes, hears }: what is put on the page,
   and what is done with which kind of message. Those with { title, refresh } follow the
   text, and may be folded. playground.js loads this file when the reader presses start.
   What it leaves out: all that is computed (playground_worker.js). */
"use strict";
(() => {
  const SHOWN = 300;  // tokens drawn; a long text would only make the page slow
  const BARS = 12, PAIRS = 6;  // tokens with a bar
  const STRETCH = 200;  // tokens per press on "Write on"
  const LONG = ["write", "chat"];  // kinds of wishes that may be interrupted

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
    const names = { "\n": "⏎", "\t": "⇥", " ": "␣", "\x7f": "␡" };
    return text.replace(/[\0- \x7f]|[\p{Cf}\p{Zl}\p{Zp}\x80-\x9f\xa0]/gu, (sign) => {
      const code = sign.codePointAt(0);
      if (names[sign]) return names[sign];
      if (code < 32) return String.fromCodePoint(0x2400 + code);
      return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
    });
  }

  const quoted = (text) => `“${visible(text)}”`;
  const percent = (share) => (share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %");
  const many = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const button = (words, pressed) => {
    const node = make("button", { type: "button" }, words);
    node.addEventListener("click", pressed);
    return node;
  };
  const caption = (...words) => make("p", { class: "caption" }, ...words);
  const said = () => make("output", { "aria-live": "polite" });

  /** An input with its name, and beside a slider its value; `words` says it better. */
  function control(name, attributes, changed, words = (value) => value) {
    const input = make("input", attributes), value = make("span", { "aria-hidden": "true" });
    const tell = () => {
      if (input.type !== "range") return;
      value.textContent = words(input.value);
      input.setAttribute("aria-valuetext", value.textContent);
    };
    input.addEventListener("input", () => { tell(); changed(); });
    tell();
    return { input, tell, label: make("label", {}, make("span", {}, name), input, value) };
  }

  function checkbox(words, changed) {
    const input = make("input", { type: "checkbox" });
    input.addEventListener("change", changed);
    return { input, label: make("label", { class: "check" }, input, make("span", {}, words)) };
  }

  /** A list item with a token and a small line under it. */
  const chip = (text, below) =>
    make("li", {}, make("bdi", {}, visible(text)), make("small", {}, below));

  // --- Wishes -----------------------------------------------------------------------

  /** Carries wishes to the worker, one at a time; of each kind only the newest waits.
      `content` is called when the wish is sent, so it tells what is then on the page. */
  function makeDesk(worker, box, say) {
    const waiting = new Map();
    let busy = null;
    const send = (kind, content) => {
      busy = kind;
      worker.postMessage({ kind, ...content() });
    };
    return {
      box, say,
      ask(kind, content = () => ({})) {
        if (kind === "load" || kind === "prompt") waiting.clear();
        if (busy === null) return send(kind, content);
        waiting.delete(kind);
        waiting.set(kind, content);
        if (LONG.includes(busy)) this.stop();
      },
      stop() { worker.postMessage({ kind: "stop" }); },
      done() {
        busy = null;
        const [first] = waiting;
        if (!first) return;
        waiting.delete(first[0]);
        send(...first);
      },
    };
  }

  // --- The text and its tokens ------------------------------------------------------

  function text(desk, names) {
    const prompt = make("textarea", { rows: 2, dir: "auto", spellcheck: "false" });
    prompt.value = desk.box.dataset.prompt ?? "The salesperson asks the";
    const count = make("span", { class: "count" });
    const chips = make("ol", { class: "tokens", dir: "auto", tabindex: 0,
      "aria-label": "Tokens and their ids" });
    const soFar = make("p", { class: "text", dir: "auto", tabindex: 0 });  // it may scroll
    const nodes = [make("label", { class: "wide" }, make("span", {}, "prompt"), prompt)];
    if (names.includes("tokens")) nodes.push(caption("Its tokens: ", count), chips);
    if (names.includes("next")) nodes.push(caption("The text so far"), soFar);

    function draw(state) {
      if (state.begins) chips.replaceChildren();
      const first = state.n - state.tokens.length;
      state.tokens.forEach(({ id, text: token }, n) => {
        const place = first + n, node = chip(token, String(id));
        node.className = `c${place % 5}${place >= desk.start ? " new" : ""}`;
        chips.append(node);
      });
      while (chips.childElementCount > SHOWN) chips.firstChild.remove();
      chips.scrollTop = chips.scrollHeight;
      const hidden = state.n - chips.childElementCount;
      count.textContent = many(state.n, "token") +
        (hidden ? `, the last ${SHOWN} shown` : "") +
        (state.viewed < state.n ? `; the model sees the last ${state.viewed}` : "");
      if (state.written !== undefined) {
        soFar.replaceChildren(prompt.value.slice(-4000), make("mark", {}, state.written));
        soFar.scrollTop = soFar.scrollHeight;
      }
    }

    desk.settings = () => ({ seed: 1 });  // until a part has controls for it
    desk.about = (more = {}) => ({ settings: desk.settings(), start: desk.start,
      sizes: { tokens: SHOWN, bars: BARS, pairs: PAIRS }, ...more });
    desk.read = () => desk.ask("prompt", () => desk.about({ text: prompt.value }));
    prompt.addEventListener("input", desk.read);
    return { nodes, hears: {
      loaded: desk.read,
      state(state) {
        if (state.begins) desk.start = state.n;  // where the model's own words begin
        requestAnimationFrame(() => draw(state));
      },
    } };
  }

  // --- What may come next -----------------------------------------------------------

  function next(desk) {
    const changed = (fresh) => () => desk.ask("settings", () => desk.about({ fresh }));
    const heat = control("temperature",
      { type: "range", min: 0, max: 2, step: 0.1, value: 0.8 }, changed(false));
    const topK = control("top-k (0: all)",
      { type: "number", min: 0, step: 1, value: 0 }, changed(false));
    const topP = control("top-p",
      { type: "range", min: 0.05, max: 1, step: 0.05, value: 1 }, changed(false));
    const seed = control("seed",
      { type: "number", min: 0, max: 2 ** 32 - 1, step: 1, value: 1 }, changed(true));
    desk.settings = () => {
      const whole = (input) => Math.max(0, Math.floor(Number(input.value)) || 0);
      return { temperature: Number(heat.input.value), topK: whole(topK.input) || null,
        topP: Number(topP.input.value), seed: whole(seed.input) };
    };

    const write = (count) => desk.ask("write", () => desk.about({ count }));
    const step = button("One token", () => write(1));
    const stream = button("Write on", () => {
      if (stream.textContent === "Stop") return desk.stop();
      stream.textContent = "Stop";
      desk.say("Writing …");
      write(STRETCH);
    });
    const again = button("Back to the prompt", () => {
      desk.say("Back to the prompt.");
      desk.read();
    });
    const speed = make("span", { class: "speed", "aria-hidden": "true" });
    const bars = make("ol", { class: "bars", "aria-label": "The likeliest next tokens" });

    function bar() {
      const node = button("", () => {
        const id = Number(node.dataset.id);
        desk.say(`Wrote “${node.firstChild.textContent}”.`);
        desk.ask("choose", () => desk.about({ id }));
      });
      node.append(make("bdi"),
        make("span", { class: "strip", "aria-hidden": "true" }, make("i")), make("span"));
      return node;
    }

    function draw(state) {
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
      if (state.speed) speed.textContent = `${Math.round(state.speed)} tokens per second`;
    }

    return { hears: {
      state(state) {
        requestAnimationFrame(() => draw(state));
        if (state.done === undefined) return;
        const piece = state.done === 1 ? `Wrote ${quoted(state.tokens.at(-1)?.text ?? "")}`
          : `Wrote ${many(state.done, "token")}`;
        desk.say(`${piece}, ${Math.round(state.speed)} tokens per second` +
          `${state.ended ? "; the text has ended" : ""}.`);
        stream.textContent = "Write on";
      },
      error() { stream.textContent = "Write on"; },
    }, nodes: [
      make("p", { class: "acts" }, step, stream, again, speed),
      make("div", { class: "controls" }, heat.label, topK.label, topP.label, seed.label),
      caption("What may come next (choose one to write it)"), bars,
    ] };
  }

  // --- The chat ---------------------------------------------------------------------

  function chat(desk) {
    const questions = desk.box.dataset.questions?.split("\n").filter(Boolean)
      ?? ["Where is my parcel?", "Can I return a jacket?", "Do you sell gift cards?"];
    let messages = [], answering = null, turn = 0;
    const log = make("div", { class: "log", role: "log", tabindex: 0,
      "aria-label": "The conversation" });
    const input = make("input", { type: "text", dir: "auto", autocomplete: "off" });
    const send = make("button", { type: "submit" }, "Send");
    const stop = button("Stop", () => desk.stop());
    const anew = button("New conversation", () => {
      desk.stop();
      forget();
      desk.say("A new conversation.");
    });
    const form = make("form", {}, make("label", { class: "wide" },
      make("span", {}, "your message"), input), make("p", { class: "acts" }, send, stop, anew));

    function forget() {
      messages = [];
      answering = null;
      turn++;
      log.replaceChildren();
      free(true);
    }

    function free(is) {
      send.disabled = !is;
      stop.disabled = is;
      log.setAttribute("aria-busy", String(!is));
    }

    function line(who, text) {
      const words = make("bdi", {}, text);
      log.append(make("p", { class: who === "You" ? "you" : "" }, make("b", {}, who), words));
      log.scrollTop = log.scrollHeight;
      return words;
    }

    function ask(content) {
      if (answering || !content.trim()) return;
      messages.push({ role: "user", content });
      line("You", content.length > 1000 ? `${content.slice(0, 1000)} …` : content);
      answering = line("The model", "…");
      free(false);
      desk.ask("chat", () => ({ messages, turn, settings: { seed: messages.length } }));
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask(input.value);
      input.value = "";
    });
    free(true);
    return { hears: {
      loaded({ special }) {
        forget();
        if (!["<|endoftext|>", "<|end|>"].some((end) => special.includes(end))) {
          desk.say("This model has no end mark, so it cannot chat: choose one that was fine-tuned.");
        }
      },
      chat({ turn: asked, text: said, more, stopped }) {
        if (!answering || asked !== turn) return;  // a new conversation began in the meantime
        answering.textContent = said || (more ? "…" : "(nothing)");
        log.scrollTop = log.scrollHeight;
        if (more) return;
        messages.push({ role: "assistant", content: said });
        answering = null;
        free(true);
        if (stopped) desk.say("Stopped.");
      },
      error({ during }) {
        if (during !== "chat" || !answering) return;
        messages.pop();
        answering.textContent = "(no answer)";
        answering = null;
        free(true);
      },
    }, nodes: [
      make("p", { class: "acts" }, ...questions.map((words) => button(words, () => ask(words)))),
      log, form,
    ] };
  }

  // --- Together ---------------------------------------------------------------------

  const tools = { make, visible, quoted, percent, button, caption, said, control, checkbox, chip };
  let kinds = null;  // of parts, by name

  /** Build the parts called `names` below `box`; gives a function that loads a model. */
  function open(box, names, say) {
    const code = ["tinygptWasm", "tinygptSimd", "TinyGPT", "tinygptWeb", "tinygptWorker"]
      .map((name) => `${globalThis[name].source}\n`);
    const blob = new Blob(code, { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(blob));
    const desk = makeDesk(worker, box, say);
    const reads = names.some((name) => name !== "chat");
    const head = reads ? [text(desk, names)] : [];
    kinds ??= { next, ...globalThis.tinygptInside(tools), chat };
    const parts = names.filter((name) => name in kinds).map((name) => kinds[name](desk));
    const room = make("div", { hidden: "" });
    const whole = parts.length > 1;  // the first part is open, the others unfold
    for (const part of [...head, ...parts]) {
      if (whole && part.refresh) {
        part.fold = make("details", {}, make("summary", {}, part.title), ...part.nodes);
        part.fold.addEventListener("toggle", () => { if (part.fold.open) part.refresh(); });
        room.append(part.fold);
      } else room.append(...part.nodes);
    }
    box.append(room);
    const isOpen = (part) => part.refresh && (!part.fold || part.fold.open);

    worker.onmessage = ({ data }) => {
      if (data.kind === "done") return desk.done();
      if (data.kind === "error") say(data.sentence);
      if (data.kind === "loaded") {
        room.hidden = false;
        const { n_layers: L, n_heads: H, context_length: T } = data.config;
        say(`${data.name} is here: ${many(L, "block")}, ${many(H, "head")}, ` +
          `a context of ${many(T, "token")}, the vocabulary ${data.tokenizer}.`);
      }
      for (const part of [...head, ...parts]) part.hears[data.kind]?.(data);
      const settled = data.kind === "state" && !data.more && !data.same;
      if (settled) for (const part of parts) if (isOpen(part)) part.refresh();
    };
    worker.onerror = (event) => say(`The worker failed: ${event.message}`);
    return (name, model) => desk.ask("load", () => ({ name, ...model }));
  }

  globalThis.tinygptPlayground = { open };
})();
