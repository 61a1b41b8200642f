/* The door of "Train your own": a page asks for a GPT that is trained in it with
     <div class="tinygpt-train" data-script="train" data-text="handbook">A sentence</div>
   where `data-script` lets door.js fetch this file, `data-text` is chosen first, and
   `data-small` leaves out all but the button. Without scripts the sentence stays. Nothing
   but this file and two style sheets is fetched before the reader presses a button, and what
   opens and saves files only when that is asked for. What it leaves out: what is drawn
   (train_view.js), the worker (train_worker.js), the engine (tinygpt_train.js, made faster
   by tinygpt_train_simd.js). */
"use strict";
(() => {
  const here = document.currentScript.src;
  const file = (name) => new URL(name, here).href;
  const ROOM = ["tinygpt_wasm", "tinygpt", "tinygpt_look", "tinygpt_backward",
    "tinygpt_train_simd", "tinygpt_train", "train_worker", "train_parts", "train_view"];
  const TEXTS = { stories: "the stories (2.7 MB)", handbook: "the handbook (0.5 MB)", own: "my own" };
  const SIZES = { d_model: "width", n_layers: "blocks", n_heads: "heads a block",
    context_length: "context, in tokens" };
  const BREAKS = { rate: "a learning rate 30 times too large", noMask: "no mask: tokens see their future",
    noPositions: "no positions", unshifted: "targets not shifted" };
  const LEAST = 20_000, LARGEST = 5e6, LONG_PASTE = 100_000;  // bytes of text; characters

  /** An HTML element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const field = (words, input) => make("label", {}, make("span", {}, words), input);
  const option = (words, input) => make("label", { class: "check" }, input, make("span", {}, words));
  const fold = (title, ...nodes) => make("details", {}, make("summary", {}, title), ...nodes);

  /** Load a script; its `load` event comes after it has run. */
  function script(source) {
    return new Promise((done, failed) => {
      const node = make("script", { src: source });
      const settle = (act) => () => { node.remove(); act(); };
      node.addEventListener("load", settle(done));
      node.addEventListener("error", settle(() =>
        failed(new Error(`${source.split("/").slice(-2).join("/")} is not beside this page`))));
      document.head.append(node);
    });
  }

  const fetched = new Map();  // scripts, once for all doors of a page
  async function need(names) {
    for (const name of names) {
      if (!fetched.has(name)) fetched.set(name, script(file(`${name}.js`)));
      await fetched.get(name).catch((error) => { fetched.delete(name); throw error; });
    }
  }

  /** What a run kept in this browser was, or undefined. */
  function kept() {
    return new Promise((done) => {
      let asked;
      try {
        asked = indexedDB.open("tinygpt-train", 1);
      } catch {
        return done();  // this browser keeps nothing
      }
      asked.onupgradeneeded = () => asked.result.createObjectStore("run");
      asked.onerror = () => done();
      asked.onsuccess = () => {
        const found = asked.result.transaction("run").objectStore("run").get("about");
        found.onsuccess = found.onerror = () => { asked.result.close(); done(found.result); };
      };
    });
  }

  let doors = 0;

  function door(box) {
    const group = `tinygpt-text-${doors++}`, isSmall = "small" in box.dataset;
    const status = make("output", { class: "status", "aria-live": "polite" });
    const say = (sentence) => { status.textContent = sentence; };
    let dropped = null, pasted = null, busy = false, view = null;

    // --- The text ---
    const radios = Object.entries(TEXTS).map(([value, words]) => {
      const input = make("input", { type: "radio", name: group, value });
      input.checked = value === (box.dataset.text ?? "stories");
      input.addEventListener("change", () => { own.hidden = chosen() !== "own"; });
      return { input, label: option(words, input) };
    });
    const chosen = () => radios.find(({ input }) => input.checked).input.value;
    const paste = make("textarea", { rows: 4, dir: "auto", spellcheck: "false" });
    const upload = make("input", { type: "file", accept: ".txt,.md,text/*" });
    const held = make("p", { class: "count" });
    const own = make("div", {},
      make("label", { class: "wide" }, make("span", {}, "paste a text of at least 20 KB, some 3,500 words"), paste),
      field("or a file (drop it here, too)", upload), held);
    own.hidden = chosen() !== "own";
    paste.addEventListener("paste", (event) => {
      const text = event.clipboardData.getData("text");
      if (text.length < LONG_PASTE) return;
      event.preventDefault();  // the box would be busy for seconds with it
      [pasted, dropped] = [text, null];
      paste.value = `${text.slice(0, 500)} …`;
      held.textContent = `Pasted ${text.length.toLocaleString("en")} characters; the box shows their beginning.`;
    });
    paste.addEventListener("input", () => {
      pasted = dropped = null;
      upload.value = "";
      const { size } = new Blob([paste.value]), kilobytes = (size / 1000).toFixed(1);
      if (!busy) say("");
      held.textContent = size ? `${kilobytes} KB${size < LEAST ? " of at least 20" : ""}.` : "";
    });
    const take = (found) => {
      if (!found) return;
      [dropped, pasted] = [found, null];
      radios.at(-1).input.checked = true;
      own.hidden = false;
      held.textContent = `The file ${found.name}, ${Math.ceil(found.size / 1000).toLocaleString("en")} KB.`;
    };
    upload.addEventListener("change", () => take(upload.files[0]));
    upload.addEventListener("click", () => { upload.value = ""; });  // the same one, changed
    box.addEventListener("dragover", (event) => event.preventDefault());
    box.addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;  // words, for the box to take
      event.preventDefault();
      take(event.dataTransfer.files[0]);
    });

    async function text() {
      const name = chosen();
      if (name === "own") {
        if (!dropped) return { name: "your text", text: pasted ?? paste.value };
        if (dropped.size > LARGEST) {
          throw new Error(`The file has ${(dropped.size / 1e6).toFixed(1)} MB, and a page learns from 5 MB at most: choose a part of it`);
        }
        const text = await dropped.arrayBuffer().catch(() => {
          throw new Error("The file has changed or gone since it was chosen: choose it again");
        });
        return { name: dropped.name, text };
      }
      await script(file(`texts/${name}.js`));
      return { name: `the ${name}`, text: globalThis.tinygptText };
    }

    // --- Settings ---
    const minutes = make("input", { type: "number", min: 0.1, max: 10, step: "any",
      value: box.dataset.minutes ?? 1 });
    const sizes = Object.entries(SIZES).map(([name, words]) => {
      const input = make("input", { type: "number", min: 1, step: 1, placeholder: "planned" });
      return { name, input, label: field(words, input) };
    });
    const breaks = Object.entries(BREAKS).map(([name, words]) => {
      const input = make("input", { type: "checkbox" });
      return { name, input, label: option(words, input) };
    });
    const keeps = make("input", { type: "checkbox" });

    function settings() {
      const wanted = Number(minutes.value);
      if (!(wanted > 0 && wanted <= 10)) throw new Error("Choose a time of up to 10 minutes");
      const set = sizes.filter(({ input }) => input.value !== "");
      for (const { input, label } of set) {
        if (Number.isInteger(Number(input.value)) && Number(input.value) > 0) continue;
        throw new Error(`The ${label.firstChild.textContent} must be a whole number above 0`);
      }
      return {
        minutes: wanted,
        keeps: keeps.checked,
        sizes: Object.fromEntries(set.map(({ name, input }) => [name, Number(input.value)])),
        breakIt: Object.fromEntries(breaks.map(({ name, input }) =>
          [name, name === "rate" ? (input.checked ? 30 : 1) : input.checked])),
      };
    }

    // --- Buttons ---
    const button = (words, pressed, kind = "") => {
      const node = make("button", { type: "button", class: kind }, words);
      node.addEventListener("click", pressed);
      return node;
    };
    const start = button("Train", () => begin(async () =>
      ({ kind: "train", ...settings(), ...await text() })), "start");
    const again = button("", () => begin(() => ({ kind: "resume" })));
    const files = make("input", { type: "file", accept: ".js,.zip,.json,.safetensors,.tiktoken", multiple: "" });
    files.addEventListener("change", () => files.files.length && begin(async () => {
      const read = await Promise.all([...files.files].map(async (one) =>
        [one.name, new Uint8Array(await one.arrayBuffer())]));
      return { kind: "open", files: Object.fromEntries(read) };
    }));

    /** Fetch what is missing, and hand the wish to the worker; once at a time. */
    async function begin(wish) {
      if (busy) return;
      free(false);
      say("Loading …");
      try {
        await need(ROOM);
        view ??= globalThis.tinygptTraining.open(box, { say, free, offer, isSmall, need });
        await view.wish(await wish());
      } catch (error) {
        say(`${error.message}.`);
        free(true);
      }
    }

    function free(is) {
      busy = !is;
      start.disabled = again.disabled = files.disabled = busy;
    }

    /** Offer the run that this browser keeps, unless it is the one that is shown. */
    async function offer(shown) {
      again.hidden = true;
      const about = isSmall ? null : await kept();
      if (!about || busy || about.id === shown) return;
      again.textContent = `${about.over ? "Show" : "Go on with"} the run on ${about.name}, step ${about.step.toLocaleString("en")}`;
      again.hidden = false;
    }

    const title = make("p", { class: "title" }, "Try it: train one here, in this page");
    const wishes = [
      make("fieldset", {}, make("legend", {}, "The text"),
        make("div", { class: "texts" }, ...radios.map(({ label }) => label)), own),
      field("minutes, up to 10", minutes),
      fold("Sizes", make("p", {}, "Left empty, they are planned for the text, the time and the speed of this browser. " +
        "The width is how many numbers stand for a token. The blocks follow one another, and in each some " +
        "heads look back at other tokens. The context is how many tokens the model sees at once."),
        make("div", { class: "controls" }, ...sizes.map(({ label }) => label))),
      fold("Break it", make("p", {}, "Train again with one of these, and compare the curves."),
        ...breaks.map(({ label }) => label)),
      fold("Open a model", make("p", {}, "A model.js, or the files of a trained run: look inside it, or train it on."),
        field("its files", files)),
      option("keep the run in this browser, so that it survives a reload", keeps),
    ];
    keeps.checked = !isSmall;
    box.replaceChildren(...(isSmall ? [title] : wishes),
      make("p", { class: "acts" }, start, again), status);
    offer();
  }

  for (const name of ["playground.css", "train.css"]) {
    document.head.append(make("link", { rel: "stylesheet", href: file(name) }));
  }
  for (const box of document.querySelectorAll(".tinygpt-train")) {
    box.classList.add("tinygpt-playground");  // whose looks it shares
    door(box);
  }
})();
