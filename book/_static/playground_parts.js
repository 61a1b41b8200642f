/* The playground's parts: the text and its tokens, what may come next, attention, the
   logit lens, parts switched off, a chat. Each is a function of the desk, which carries
   wishes to the worker, and gives { title, nodes, hears }: `hears` maps kinds of messages
   to what is done with them. playground.js loads this file when the reader presses start.
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
    const names = { "\n": "⏎", "\t": "⇥", " ": "·", "\x7f": "␡" };
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

    return { title: "What may come next", hears: {
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
      caption("The next token: with all parts (grey) and without these (blue)"), pairs, words,
    ] };
  }

  // --- The chat ---------------------------------------------------------------------

  function chat(desk) {
    const questions = ["Where is my parcel?", "Can I return a jacket?", "Do you sell gift cards?"];
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
    return { title: "A chat", hears: {
      loaded({ special }) {
        forget();
        if (!special.includes("<|endoftext|>")) {
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

  const PARTS = { next, attention, lens, ablate, chat };

  /** Build the parts called `names` below `box`; gives a function that loads a model. */
  function open(box, names, say) {
    const code = `${globalThis.TinyGPT.source}\n${globalThis.tinygptWorker.source}`;
    const blob = new Blob([code], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(blob));
    const desk = makeDesk(worker, box, say);
    const reads = names.some((name) => name !== "chat");
    const head = reads ? [text(desk, names)] : [];
    const parts = names.filter((name) => name in PARTS).map((name) => PARTS[name](desk));
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
