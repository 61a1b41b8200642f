/* The playground's door: a page asks for a model that runs in it with
     <div class="tinygpt-playground" data-part="next attention"
          data-model="pocket-gpt2 tiny" data-prompt="The salesperson">A sentence</div>
   where `data-part` names what is shown (all but the chat, if left out), `data-model`
   folders below _static/models, and `data-own` lets the reader bring a file; a page of one
   model (`tinygpt open`) presses start itself by `data-start`. Without scripts the sentence
   stays. Nothing but this file and its style sheet is fetched before start is pressed. What
   it leaves out: the model (tinygpt.js, made faster by tinygpt_simd.js), the worker around it (playground_worker.js) and what is drawn
   (playground_parts.js and playground_inside.js). */
"use strict";
(() => {
  const here = document.currentScript.src;
  const file = (name) => new URL(name, here).href;
  const ROOM = ["tinygpt_wasm", "tinygpt_simd", "tinygpt", "tinygpt_web", "playground_worker",
    "playground_inside", "playground_parts"];
  const ALL = "tokens next attention lens ablate";
  const TITLES = {
    tokens: "your text as tokens",
    next: "what comes next?",
    attention: "who listens to whom",
    chat: "talk to the fine-tuned model",
  };

  /** An HTML element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** Load a script; its `load` event comes after it has run. */
  function script(source) {
    return new Promise((done, failed) => {
      const node = make("script", { src: source });
      node.async = false;  // they run in the order in which they are asked for
      node.addEventListener("load", () => { node.remove(); done(); });
      node.addEventListener("error", () => {
        node.remove();
        failed(new Error(`${source.split("/").slice(-2).join("/")} is not beside this page`));
      });
      document.head.append(node);
    });
  }

  let room = null;  // the scripts of the room, fetched once for all doors of a page
  function enter() {
    room ??= Promise.all(ROOM.map((name) => script(file(`${name}.js`))));
    room.catch(() => { room = null; });
    return room;
  }

  async function fromFolder(name) {
    globalThis.tinygptModel = undefined;
    await script(file(`models/${name}/model.js`));
    const found = globalThis.tinygptModel;
    globalThis.tinygptModel = undefined;
    if (!found) throw new Error("The model file is cut off or no model file: copy it anew");
    return { file: found };
  }

  async function fromFile(chosen) {
    if (chosen.size > globalThis.TinyGPT.LARGEST) {
      throw new Error(`The file has ${Math.round(chosen.size / 1e6)} MB, more than a page can hold`);
    }
    return { bytes: await chosen.arrayBuffer() };
  }

  function door(box) {
    const models = (box.dataset.model ?? "pocket-gpt2").split(" ");
    const part = box.dataset.part ?? ALL;
    const status = make("output", { class: "status", "aria-live": "polite" });
    const say = (sentence) => { status.textContent = sentence; };
    let load = null, starts = [];

    /** Fetch what is missing, and hand the model that `get` gives to the worker. */
    async function begin(name, get) {
      for (const start of starts) start.disabled = true;
      say("Loading …");
      try {
        await enter();
        const model = await get();
        load ??= globalThis.tinygptPlayground.open(box, part.split(" "), say);
        load(name, model);
        box.querySelector("textarea")?.focus({ preventScroll: true });
      } catch (error) {
        say(`${error.message}.`);
      }
      for (const start of starts) start.disabled = false;
    }

    starts = models.map((name) => {
      const start = make("button", { type: "button", class: "start" }, `Start ${name}`);
      start.addEventListener("click", () => begin(name, () => fromFolder(name)));
      return start;
    });
    const title = TITLES[part] ? [make("p", { class: "title" }, `Try it: ${TITLES[part]}`)] : [];
    box.replaceChildren(...title, make("p", { class: "acts" }, ...starts));
    if ("own" in box.dataset) {
      const own = make("input", { type: "file", accept: ".js" });
      const take = (chosen) => { if (chosen) begin(chosen.name, () => fromFile(chosen)); };
      own.addEventListener("change", () => take(own.files[0]));
      box.addEventListener("dragover", (event) => event.preventDefault());
      box.addEventListener("drop", (event) => {
        if (!event.dataTransfer.files.length) return;
        event.preventDefault();
        take(event.dataTransfer.files[0]);
      });
      box.append(make("label", { class: "own" },
        make("span", {}, "or your own model.js (drop it here, too)"), own));
    }
    box.append(status);
    if ("start" in box.dataset) starts[0].click();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const boxes = document.querySelectorAll(".tinygpt-playground");
    if (!boxes.length) return;
    document.head.append(make("link", { rel: "stylesheet", href: file("playground.css") }));
    boxes.forEach(door);
  });
})();
