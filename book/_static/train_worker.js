/* The Web Worker of "Train your own": it holds the text, the run and its past states, and
   does what the page wishes. The page loads this file as a script, since file:// lets a
   Worker load none, and hands `tinygptTrainWorker.source` to the Worker behind the sources
   of the engine.

   A wish is { kind, ... } with a kind of `acts`. Between two steps the worker looks at new
   wishes. A run is kept in the browser's own database (IndexedDB) while it trains, so that
   a reload loses seconds only. What it leaves out: all arithmetic (tinygpt_train.js), and
   the page (train_view.js). */
"use strict";
globalThis.tinygptTrainWorker = { source: `(${function work() {
  const { TinyGPT, tinygptLook, TinyGPTTrain: T } = globalThis;
  const STATES = 40, STATE_BYTES = 2 ** 26;  // kept of a run, for the slider through time
  const TELL = 250, KEEP = 20_000;  // milliseconds between two reports, two savings
  const SHORT = 48;  // tokens of a prompt that are looked inside at

  let run = null;  // { name, trainer, points, samples, states, ... } or an opened model
  let opened = null;  // { name, model, tokenizer } from a file, to go on with
  let running = 0;  // the loop that may go on; a higher number ends it

  const breathe = () => new Promise((done) => {
    const { port1, port2 } = new MessageChannel();  // setTimeout would wait longer
    port1.onmessage = () => { port1.close(); done(); };
    port2.postMessage(null);
  });
  const phase = (words, share = null) => postMessage({ kind: "phase", words, share });

  // --- The browser's database ---------------------------------------------------------

  /** What an IndexedDB request or transaction comes to. */
  const outcome = (asked) => new Promise((done, failed) => {
    asked.onsuccess = asked.oncomplete = () => done(asked.result);
    asked.onerror = asked.onabort = () => failed(asked.error ?? new Error("it was refused"));
  });

  async function database() {
    const asked = indexedDB.open("tinygpt-train", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("run");
    return outcome(asked);
  }

  /** Do `act` with the store and what looks a key up in it; all of it happens or nothing. */
  async function withStore(act) {
    const base = await database();
    try {
      const transaction = base.transaction("run", "readwrite"), done = outcome(transaction);
      const store = transaction.objectStore("run");
      const acted = act(store, (key) => outcome(store.get(key)));
      acted.catch(() => { if (!transaction.error) transaction.abort(); });
      const [result] = await Promise.all([acted, done]);
      return result;
    } finally {
      base.close();
    }
  }

  /** Put the run away as it is now. States that lie there already are not written again,
      unless another page has put its own run there meanwhile. */
  async function putAway(mine) {
    if (!mine.keeps) return;
    try {
      await withStore(async (store, get) => {
        const about = await get("about");
        const { id, name, points, samples, evaluated, states, trainer, over } = mine;
        const stored = about?.id === id ? about.states : 0, { steps: step } = trainer;
        const kept = { state: trainer.state(), name, points, samples, evaluated, over };
        if (!stored) store.clear();
        store.put(kept, "run");
        states.slice(stored).forEach((state, n) => store.put(state, `state ${stored + n}`));
        store.put({ id, name, step, over, states: states.length }, "about");
      });
    } catch (error) {
      mine.keeps = false;  // told once
      const what = error.name === "QuotaExceededError" ? "has no room left for the run"
        : `does not keep the run (${error.message})`;
      postMessage({ kind: "unkept", sentence: `This browser ${what}, and training goes on: ` +
        "download the model when it is done." });
    }
  }

  let storing = Promise.resolve();  // one after the other; a database may take long

  function keep(mine = run) {
    storing = storing.then(() => putAway(mine));
    return storing;
  }

  // --- A run --------------------------------------------------------------------------

  /** Bits per byte for a nat per token, on the training text. */
  function bitsPerNat({ train, tokenizer }) {
    const special = new Set(tokenizer.specialTokens.values());
    let bytes = 0;
    for (const id of train) if (!special.has(id)) bytes += tokenizer.bytes[id].length;
    return train.length / bytes / Math.LN2;
  }

  /** Tell the page what will be trained, and of a run that was kept, what there is. */
  function introduce() {
    const { id, name, trainer, points, samples, evaluated, states, over } = run;
    const { plan, data, isFast, breakIt } = trainer;
    postMessage({
      kind: "planned", id, name, plan, isFast, breakIt, over, points, samples, evaluated,
      bigram: data.bigram, total: 60 * plan.used, states: states.map(({ step }) => step),
    });
  }

  function begin(name, trainer, keeps, past = {}) {
    const { plan } = trainer;
    run = {
      id: `${Date.now()} ${Math.random()}`, name, trainer, keeps, points: [], samples: [], evaluated: [], states: [],
      over: false, tokenizer: trainer.data.tokenizer, perNat: bitsPerNat(trainer.data), ...past,
    };
    run.most = Math.max(2, Math.min(STATES, Math.floor(STATE_BYTES / plan.parameters)));
    run.every = 1000 * Math.min(8, Math.max(2, 4 * plan.used));  // from sample to sample
    introduce();
  }

  function evaluate(options) {
    const { step, bitsPerByte, loss } = run.trainer.evaluate(options);
    const found = { step, bits: bitsPerByte, loss, seconds: run.trainer.seconds };
    run.evaluated.push(found);
    postMessage({ kind: "evaluated", ...found });
  }

  /** What it writes now, and whom its heads look at; both count as time of the run. */
  function show() {
    const { trainer, samples } = run, began = performance.now();
    const { prompt, text } = trainer.sample();  // the same prompt and seed every time
    const attention = trainer.attention();
    samples.push({ step: trainer.steps, prompt, text });
    postMessage({ kind: "sample", step: trainer.steps, prompt, text, attention });
    trainer.addTime(began);
  }

  function takeState() {
    const { trainer, states } = run, began = performance.now();
    states.push(trainer.snapshot());
    trainer.addTime(began);
    postMessage({ kind: "state", step: trainer.steps, n: states.length });
  }

  async function train() {
    const mine = ++running, { trainer, states } = run;
    const { eval_interval: interval } = trainer.config;
    let told = performance.now(), shown = trainer.steps ? told : -Infinity, kept = told;
    let waiting = [], isKeeping = false;
    const tell = (step) => {
      const bits = waiting.reduce((a, b) => a + b, 0) / waiting.length * run.perNat;
      waiting = [];
      run.points.push([step.seconds, bits]);
      postMessage({ kind: "tick", ...step, bits });
    };
    while (mine === running && !trainer.isOver) {
      if (trainer.position / trainer.config.steps >= states.length / run.most) takeState();
      if (performance.now() - shown > run.every) {
        show();
        shown = performance.now();
      }
      const step = trainer.step();
      waiting.push(step.loss);
      if (step.step % interval === 0 && !trainer.isOver) evaluate();
      if (performance.now() - told > TELL) {
        tell(step);
        told = performance.now();
      }
      if (performance.now() - kept > KEEP && !isKeeping) {
        isKeeping = true;  // and training goes on
        keep().then(() => { isKeeping = false; });
        kept = performance.now();
      }
      await breathe();
    }
    if (mine !== running) return;
    await finish();
  }

  async function finish() {
    running++;
    phase("Reading the validation text …");
    await breathe();
    evaluate({ windows: run.trainer.config.last_windows });
    show();
    takeState();
    run.over = true;
    tellOver();
    await keep();
  }

  function tellOver() {
    const { trainer, evaluated } = run;
    postMessage({ kind: "over", step: trainer.steps, bits: evaluated.at(-1)?.bits,
      bigram: trainer.data.bigram });
  }

  /** A run that broke off, because its loss is no number: what there is stays. */
  function breakOff(sentence) {
    running++;
    run.over = true;
    postMessage({ kind: "over", broken: sentence, step: run.trainer.steps });
  }

  // --- Files --------------------------------------------------------------------------

  /** The best weights of the run, or the opened model; with its settings. */
  function finished() {
    if (!run) return { ...opened, about: {} };
    const { trainer } = run, { noMask, noPositions } = trainer.breakIt;
    if (noMask || noPositions) {
      throw new TinyGPT.UserError("This model was trained without " + (noMask ? "the mask" : "positions") +
        ", and other programs would put that back: train one that is not broken to download it.");
    }
    const { best } = trainer;
    return {
      model: trainer.model({ best: true }), tokenizer: run.tokenizer, about: {
        train: trainer.config,
        record: { step: best?.step ?? trainer.steps, val_bits_per_byte: best?.bitsPerByte },
      },
    };
  }

  // --- Looking at a state -------------------------------------------------------------

  let seen = { state: null, model: null };  // the last one looked at

  function modelAt(place) {
    if (!run) return opened.model;
    const state = run.states[Math.min(place, run.states.length - 1)];
    if (seen.state !== state) seen = { state, model: tinygptLook.fromSnapshot(state) };
    if (run.trainer?.breakIt.noPositions) seen.model.rotary = null;
    return seen.model;
  }

  const acts = {
    async train({ name, text, minutes, sizes, breakIt, keeps, usesOpened }) {
      running++;
      phase("Reading the text …");
      await breathe();
      const clean = T.readText(text), begun = usesOpened ? opened : null;
      const data = T.prepare(clean, { tokenizer: begun?.tokenizer, progress: (share, what) =>
        phase(what === "vocabulary" ? "Learning a vocabulary …" : "Cutting the text into tokens …", share) });
      phase("Measuring how fast this browser computes …");
      const speed = T.measureSpeed(data, { seconds: 0.5 });
      const config = begun?.model.config;
      const same = config && Object.fromEntries(
        ["d_model", "n_layers", "n_heads", "context_length"].map((key) => [key, config[key]]));
      const plan = T.plan(data, { minutes, speed, sizes: same ?? sizes });
      const trainer = begun ? T.startFrom(begun.model, data, plan, { breakIt })
        : T.createTrainer(data, plan, { breakIt });
      begin(name, trainer, keeps);
      await train();
    },

    pause() {
      running++;
      postMessage({ kind: "paused" });
      return run && keep();
    },

    go() { return train(); },

    stop() { return run && !run.over ? finish() : null; },

    async resume() {
      running++;
      phase("Fetching the run that was kept …");
      let found;
      try {
        found = await withStore(async (_, get) => {
          const about = await get("about"), kept = await get("run"), states = [];
          for (let n = 0; n < about?.states; n++) states.push(await get(`state ${n}`));
          return kept && { ...kept, id: about.id, states };
        });
      } catch (error) {
        throw new TinyGPT.UserError(`The run cannot be fetched (${error.message}): train anew.`);
      }
      if (!found) throw new TinyGPT.UserError("No run is kept in this browser: train one.");
      const { state, name, ...past } = found;
      begin(name, T.resume(state), true, past);
      show();
      if (run.over) return tellOver();
      await train();
    },

    async forget() {
      if (run) run.keeps = false;
      await withStore(async (store) => store.clear());
      postMessage({ kind: "forgotten" });
    },

    open({ files }) {
      running++;
      opened = { name: Object.keys(files)[0], ...T.readFiles(files) };
      run = null;
      const { model: { config }, name, tokenizer } = opened;
      postMessage({ kind: "opened", name, config, vocabulary: tokenizer.vocabSize });
    },

    look({ place, prompt }) {
      const { tokenizer } = run ?? opened, isCausal = !run?.trainer?.breakIt.noMask;
      const found = tinygptLook.look(modelAt(place), tokenizer, { prompt, room: SHORT, isCausal });
      postMessage({ kind: "looked", place, ...found });
    },

    /** A run made beforehand (see resources/moments.js): its states only, in base64. */
    moments({ config, tokenizer, states }) {
      const bytes = (text) => Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)).buffer;
      run = {
        tokenizer: new TinyGPT.Tokenizer(tokenizer),
        states: states.map(({ values, scales }) => (
          { config, values: new Int8Array(bytes(values)), scales: new Float32Array(bytes(scales)) })),
      };
    },

    /** What is only needed now and then: the sources of more of the engine. */
    code({ sources }) {
      importScripts(URL.createObjectURL(new Blob(sources, { type: "text/javascript" })));
    },

    download({ format }) {
      const { model, tokenizer, about } = finished();
      const bytes = format === "zip" ? T.zip(T.exportRun(model, tokenizer, about))
        : T.exportModelJs(model, tokenizer);
      const name = format === "zip" ? "tinygpt-run.zip" : "model.js";
      postMessage({ kind: "file", name, bytes }, [bytes.buffer]);
    },
  };

  globalThis.onmessage = async ({ data }) => {
    try {
      await acts[data.kind](data);
    } catch (error) {
      const own = error instanceof TinyGPT.UserError;
      const sentence = own ? error.message : error instanceof RangeError
        ? `The browser has not enough memory for this (${error.message}): choose smaller sizes.`
        : `The training stopped: ${error.message}.`;
      if (run?.trainer?.failed && !run.over) breakOff(sentence);
      else postMessage({ kind: "error", during: data.kind, sentence });
    }
    postMessage({ kind: "done", during: data.kind });
  };
}})();` };
