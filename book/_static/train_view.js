/* What "Train your own" shows once a reader has pressed Train: the loss, a sample, a head
   of attention, and a slider through the states of the run. `tinygptTraining.open` builds
   it below the door (train.js), makes the worker, and returns what carries wishes to it.
   What it leaves out: all that is computed (train_worker.js). */
"use strict";
(() => {
  const { make, button, caption, whole, visible, attention, history, sourcesOf, makeWorker } =
    globalThis.tinygptTrainParts;
  const MOST_SHOWN = 8;  // bits per byte; a broken run goes higher

  // --- Words --------------------------------------------------------------------------

  const clock = (seconds) => {
    const left = Math.max(0, Math.ceil(seconds));
    return `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  };
  /** The smallest of 1, 2, 5, 10, 20, ... and of their hundredths that is not below x. */
  const roundUp = (x) => [0.01, 0.1, 1, 10, 100].flatMap((n) => [n, 2 * n, 5 * n]).find((n) => n >= x);
  const several = (n, thing) => `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;
  const bitsOf = (n) => `${n.toFixed(2)} bits per byte`;
  const time = (minutes) => (minutes >= 1 ? several(Number(minutes.toFixed(1)), "minute")
    : several(Math.round(60 * minutes), "second"));

  // --- The curve ------------------------------------------------------------------------

  /** Loss over time, with axes; the last run without a fault stays behind it in grey. */
  function curve() {
    const node = make("div", { class: "curve" });
    const key = make("ul", { class: "key" }, ...[
      ["training", "on the text it learns from"], ["validation", "on text it has not read"],
      ["bigram", "counts what follows what"], ["before", "the last run without a fault, validation"],
    ].map(([kind, words]) => make("li", { class: kind }, make("b", {}, kind), ` ${words}`)));
    let now = null, before = null, asked = false;

    function ask() {
      if (asked || document.hidden) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; if (now) draw(); });
    }

    function draw() {
      const W = Math.max(240, Math.min(760, node.clientWidth)), H = 250;
      const [left, right, top, bottom] = [46, 10, 10, 42];
      const { points, evaluated, bigram, total } = now;
      const old = before?.evaluated ?? [];
      const heights = [bigram, ...points.map(([, y]) => y), ...[...evaluated, ...old].map(({ bits }) => bits)]
        .filter(Number.isFinite).map((y) => Math.min(y, MOST_SHOWN));
      const high = Math.ceil(2 * Math.max(...heights) + 0.1) / 2;
      const low = Math.max(0, Math.floor(2 * Math.min(...heights) - 0.1) / 2);
      const end = Math.max(total, points.at(-1)?.[0] ?? 0), inMinutes = end > 150;
      const x = (seconds) => left + Math.min(1, seconds / end) * (W - left - right);
      const y = (bits) => top + (high - Math.min(bits, high)) / (high - low) * (H - top - bottom);
      const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": told() });
      const text = (words, where) => svg.append(make("text", where, words));
      const step = high - low > 3 ? 1 : 0.5;
      for (let bits = low; bits <= high; bits += step) {
        svg.append(make("line", { class: "grid", x1: left, x2: W - right, y1: y(bits), y2: y(bits) }));
        text(bits.toFixed(1), { x: left - 6, y: y(bits) + 4, "text-anchor": "end" });
      }
      const unit = inMinutes ? 60 : 1, apart = roundUp(end / unit / 6);
      for (let at = 0; at <= end / unit; at += apart) {
        text(String(Number(at.toFixed(2))), { x: x(at * unit), y: H - bottom + 18, "text-anchor": "middle" });
      }
      text(`${inMinutes ? "minutes" : "seconds"} of training`, { x: (left + W) / 2, y: H - 6, "text-anchor": "middle" });
      text("bits per byte", { x: -(top + H - bottom) / 2, y: 12, transform: "rotate(-90)", "text-anchor": "middle" });
      const line = (kind, places) => {
        const d = places.map(([a, b], n) => `${n ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
        svg.append(make("path", { class: kind, d }));
      };
      const spots = (list) => list.map(({ seconds, bits }) => [seconds, bits]);
      line("bigram", [[0, bigram], [end, bigram]]);
      line("before", spots(old.filter((_, n) => !n || old[n - 1].seconds < end)));  // a longer run is cut off
      line("training", points.filter(([, bits]) => Number.isFinite(bits)));
      line("validation", spots(evaluated));
      for (const { seconds, bits } of evaluated) {
        svg.append(make("circle", { class: "validation", cx: x(seconds), cy: y(bits), r: 3.5 }));
      }
      key.lastChild.hidden = !old.length;
      node.replaceChildren(svg);
    }

    const told = () => {
      const last = now.evaluated.at(-1), seen = now.points.at(-1);
      return `The loss in bits per byte over the time of training. Training: ${seen ? seen[1].toFixed(2) : "none yet"}. ` +
        `Validation: ${last ? last.bits.toFixed(2) : "none yet"}. Bigram: ${now.bigram.toFixed(2)}.`;
    };

    document.addEventListener("visibilitychange", ask);
    new ResizeObserver(ask).observe(node);
    return {
      nodes: [node, key],
      begin(run) {
        if (now?.evaluated.length && !now.isBroken) before = now;
        now = run;
        ask();
      },
      ask,
    };
  }

  // --- Together -------------------------------------------------------------------------

  const ENGINE = ["tinygptWasm", "TinyGPT", "tinygptLook", "tinygptBackward", "tinygptTrainSimd",
    "TinyGPTTrain", "tinygptTrainWorker"];

  /** Build the room below `box`; gives { wish }, which carries a wish to the worker. */
  function open(box, { say, free, offer, isSmall, need }) {
    const worker = makeWorker(ENGINE);
    const post = (wanted) => worker.postMessage(wanted);
    let run = null, told = "", quarter = 0, isPaused = false;

    const pause = button("Pause", () => {
      if (isPaused) {
        post({ kind: "go" });
        say("It goes on.");
      } else post({ kind: "pause" });
      setPaused(!isPaused);
    });
    const stop = button("Stop here", () => {
      stop.disabled = pause.disabled = true;
      post({ kind: "stop" });
    });
    const bar = make("progress", { max: 1, value: 0, "aria-label": "share of the work that is done" });
    const line = make("p", { class: "count" });
    const loss = curve(), eye = attention(), past = history(post);
    const sample = make("p", { class: "text steady", dir: "auto" });
    const older = make("ol", { class: "samples" });
    const onward = make("input", { type: "checkbox" });
    const onwardLabel = make("label", { class: "check", hidden: "" }, onward, make("span", {}, "“Train” goes on with the opened model"));
    const saves = [["Download model.js", "js"], ["Download for Python (.zip)", "zip"]].map(([words, format]) =>
      button(words, () => withFiles({ kind: "download", format }, ["tinygpt_files"]).catch((error) => say(`${error.message}.`))));
    const forget = button("Forget the kept run", () => post({ kind: "forget" }));
    const live = make("div", { hidden: "" },
      caption("Loss (lower is better)"), ...loss.nodes,
      caption("What it writes, in blue, after the same words"), sample,
      make("details", {}, make("summary", {}, "What it wrote before"), older),
      ...(isSmall ? [] : [caption("Whom a head attends to, in text it has not read"), ...eye.nodes]));
    const ends = make("p", { class: "acts", hidden: "" }, ...saves, ...(isSmall ? [] : [forget]));
    const unkept = make("output", { "aria-live": "polite" });
    const work = make("div", { hidden: "" }, make("p", { class: "acts" }, pause, stop), bar, line);
    box.append(work, onwardLabel, live, ...(isSmall ? [] : [past.room]), unkept, ends);

    function setPaused(is) {
      isPaused = is;
      pause.textContent = is ? "Go on" : "Pause";
    }

    function working(is) {
      work.hidden = !is;
      pause.disabled = stop.disabled = !is;
      if (!is) free(true);
    }

    function showSample({ step, prompt, text }) {
      const line = [prompt, make("mark", {}, visible(text))];
      if (sample.childNodes.length) {
        const item = make("li", {}, make("b", {}, `step ${whole(Number(sample.dataset.step))} `), ...sample.childNodes);
        older.append(item);
      }
      sample.dataset.step = step;
      sample.replaceChildren(...line);
    }

    const hears = {
      phase({ words, share }) {
        working(true);
        pause.disabled = stop.disabled = true;  // there is nothing to pause yet, or no more
        if (told !== words) say(told = words);
        line.textContent = "";
        if (share === null) bar.removeAttribute("value"); else bar.value = share;
      },
      planned(message) {
        const { plan: { model: c, parameters, minutes, used }, id, name, isFast, breakIt } = message;
        const isBroken = Object.entries(breakIt).some(([key, value]) => value !== (key === "rate" ? 1 : false));
        run = { ...message, isBroken };
        quarter = 0;
        offer(id);
        setPaused(false);
        loss.begin(run);
        eye.shape(c);
        past.begin(run, c);
        older.replaceChildren();
        sample.replaceChildren();
        message.samples.forEach(showSample);
        unkept.textContent = "";
        live.hidden = ends.hidden = false;
        onwardLabel.hidden = true;
        for (const save of saves) save.disabled = !message.over;
        working(!message.over);
        say(`Training ${isBroken ? "a broken" : "a"} model on ${name} for about ${time(used)}` +
          (used < 0.95 * minutes ? " (longer would repeat the text too often)" : "") + `: ${whole(parameters)} parameters` +
          (isSmall ? "." : `, width ${c.d_model}, ${several(c.n_layers, "block")} of ${several(c.n_heads, "head")}, ` +
          `a context of ${c.context_length} tokens, ${whole(c.vocab_size)} tokens in the vocabulary.`) +
          (isFast ? "" : " This browser has no WebAssembly for it, so it is slower."));
      },
      tick({ step, seconds, position, tokensPerSecond, secondsLeft, bits }) {
        run.points.push([seconds, bits]);
        bar.value = position;
        line.textContent = `Step ${whole(step)}, ${whole(tokensPerSecond)} tokens a second, ${clock(secondsLeft)} left`;
        loss.ask();
        const reached = Math.floor(4 * position), last = run.evaluated.at(-1);
        if (reached > quarter && reached < 4 && last) {
          quarter = reached;
          say(`${["", "A quarter", "Half", "Three quarters"][reached]} of the time is over: ` +
            `${bitsOf(last.bits)} on text it has not read; the bigram has ${run.bigram.toFixed(2)}.`);
        }
      },
      evaluated(found) { run.evaluated.push(found); loss.ask(); },
      sample(message) {
        run.samples.push(message);
        showSample(message);
        eye.show(message.attention);
        past.suggest(message.attention.tokens.join(""));
      },
      state({ step }) { past.add(step); },
      paused() { say("Paused."); },
      over({ broken, step, bits, bigram }) {
        working(false);
        for (const save of saves) save.disabled = Boolean(broken);
        const { noMask, unshifted } = run.breakIt;
        say(broken ?? `Done after ${several(step, "step")}: ${bitsOf(bits)} on text it has not read, ` +
          `${bits < bigram ? "better" : "not yet better"} than the bigram, which has ${bigram.toFixed(2)}` +
          `${noMask || unshifted ? "; but this one could see the answers" : ""}.`);
        past.last();
      },
      opened({ name, config, vocabulary }) {
        run = null;
        working(false);
        live.hidden = true;
        ends.hidden = onwardLabel.hidden = false;
        onward.checked = true;
        for (const save of saves) save.disabled = false;
        past.open(config, "The");
        say(`${name} is open: width ${config.d_model}, ${several(config.n_layers, "block")}, ${whole(vocabulary)} tokens in its vocabulary.`);
      },
      looked: past.looked,
      unkept({ sentence }) { unkept.textContent = sentence; },
      forgotten() { say("The browser has forgotten the run."); },
      file({ name, bytes }) {
        const address = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
        const link = make("a", { href: address, download: name });
        link.click();
        setTimeout(() => URL.revokeObjectURL(address), 60_000);
        say(`${name} is yours: ${whole(bytes.length / 1000)} KB.`);
      },
      done({ during }) { if (during !== "look") offer(run?.id); },
      error({ during, sentence }) {
        if (during === "look") return past.failed(sentence);
        say(sentence);
        if (["train", "resume", "open", "go", "stop"].includes(during)) working(false);
      },
    };

    worker.onmessage = ({ data }) => hears[data.kind]?.(data);
    worker.onerror = (event) => {
      say(`The worker failed: ${event.message}. Load the page again.`);
      working(false);
    };
    const SOURCES = { tinygpt_files: "tinygptFiles", tinygpt_web: "tinygptWeb" };
    const sent = new Set();

    /** Carry a wish that concerns files: the worker first gets the code for it. */
    async function withFiles(wanted, scripts) {
      await need(scripts);
      const missing = scripts.filter((name) => !sent.has(name));
      if (missing.length) post({ kind: "code", sources: sourcesOf(missing.map((name) => SOURCES[name])) });
      missing.forEach((name) => sent.add(name));
      post(wanted);
    }

    return {
      async wish(wanted) {
        run = null;
        told = "";
        if (wanted.kind === "open") return withFiles(wanted, Object.keys(SOURCES));
        post({ ...wanted, usesOpened: wanted.kind === "train" && !onwardLabel.hidden && onward.checked });
      },
    };
  }

  globalThis.tinygptTraining = { open };
})();
