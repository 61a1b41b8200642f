/* The playground's Web Worker: it holds the model and the text, and answers wishes.
   The page loads this file as a script, since file:// lets a Worker load none, and hands
   `tinygptWorker.source` to the Worker, after the source of tinygpt.js.

   A wish is { kind, ... } with a kind of `acts`. What came of it is told in messages of
   several kinds; "done" is the last one. A wish that comes early ends what is being
   written. What it leaves out: the page (playground_parts.js). */
"use strict";
globalThis.tinygptWorker = { source: `(${function work() {
  const { TinyGPT } = globalThis;
  const END = 30;  // milliseconds between two looks at the page's wishes
  const LOOKED = 128;  // tokens to look inside at; their attention weights fill T * T
  let model, tokenizer, cache, random, logits, running = 0;
  let seen = [], ids = [], inner = null;

  /** What the model reads: the text's end that fits, or a mark in place of nothing. */
  function view() {
    if (!ids.length) return [tokenizer.endOfText ?? tokenizer.encode("\n")[0]];
    return ids.slice(TinyGPT.windowStart(ids.length, model.config.context_length));
  }

  /** Logits for the token after `ids`; what the cache holds already stays. */
  function look() {
    const now = view();
    let same = 0;
    while (same < now.length - 1 && same < seen.length && now[same] === seen[same]) same++;
    cache.length = same;
    logits = model.nextLogits(now.slice(same), cache);
    seen = now;
  }

  /** One pass over `tokens` that keeps all attention weights [L, H, T, T], what enters
      and leaves every block, and the chances of the next token. */
  function watch(tokens, options = {}) {
    const { n_layers: L, n_heads: H, d_model: C } = model.config, T = tokens.length;
    const weights = new Float32Array(L * H * T * T), streams = [model.embed(tokens)];
    const x = model.vectors(tokens, undefined, {
      ...options,
      attention: (layer, head, t, row) => weights.set(row, ((layer * H + head) * T + t) * T),
      block: (layer, stream) => streams.push(stream),
    });
    return { tokens, weights, streams, chances: chancesOf(x.subarray(-C)) };
  }

  /** `watch` of the text as it is, done once per text. */
  function inside() {
    const tokens = view().slice(-LOOKED);
    if (String(inner?.tokens) !== String(tokens)) inner = watch(tokens);
    return inner;
  }

  const chancesOf = (x) => TinyGPT.nextTokenProbabilities(model.logits(x));
  const token = (id) => ({ id, text: tokenizer.decode([id]) });
  const written = (start) => tokenizer.decode(ids.slice(start));

  /** The ids of the likeliest tokens; of equal chances, the larger logit comes first. */
  function likeliest(chances, n, scores = chances) {
    return [...chances.keys()].filter((id) => chances[id] > 0)
      .sort((a, b) => chances[b] - chances[a] || scores[b] - scores[a] || a - b).slice(0, n);
  }

  /** Tell the page the newest tokens, and the likeliest next ones. */
  function show(from, { settings, sizes }, extra = {}) {
    const chances = TinyGPT.nextTokenProbabilities(logits, settings);
    postMessage({
      kind: "state",
      tokens: ids.slice(Math.max(from, ids.length - sizes.tokens)).map(token),
      n: ids.length,
      viewed: seen.length,
      bars: likeliest(chances, sizes.bars, logits)
        .map((id) => ({ ...token(id), chance: chances[id] })),
      ...extra,
    });
  }

  const pause = () => new Promise((done) => {
    const { port1, port2 } = new MessageChannel();  // setTimeout would wait longer
    port1.onmessage = () => { port1.close(); done(); };
    port2.postMessage(null);
  });

  const acts = {
    load({ name, file, bytes }) {
      const made = file ? TinyGPT.buildModel(file) : TinyGPT.readModel(bytes);
      ({ model, tokenizer } = made);
      [cache, seen, ids, inner] = [model.newCache(), [], [], null];
      const special = [...tokenizer.specialTokens.keys()];
      const { config } = model;
      postMessage({ kind: "loaded", name, tokenizer: tokenizer.name, config, special });
    },

    stop() {},

    // --- The text ---------------------------------------------------------------------

    prompt(wish) {
      ids = tokenizer.encode(wish.text);
      random = TinyGPT.seededRandom(wish.settings.seed);
      look();
      show(0, wish, { written: "", begins: true });
    },

    settings(wish) {
      if (wish.fresh) random = TinyGPT.seededRandom(wish.settings.seed);
      show(ids.length, wish, { same: true });  // the text is
    },

    choose(wish) {
      ids.push(wish.id);
      look();
      show(ids.length - 1, wish, { written: written(wish.start) });
    },

    async write(wish) {
      const mine = running, began = performance.now(), first = ids.length;
      const speed = () => (ids.length - first) / (performance.now() - began) * 1000;
      let shown = first, paused = began, ended = false;
      for (let n = 0; n < wish.count && mine === running && !ended; n++) {
        const next = TinyGPT.sampleNextToken(logits, wish.settings, random);
        ids.push(next);
        look();
        ended = next === tokenizer.endOfText;
        if (performance.now() - paused < END) continue;
        show(shown, wish, { written: written(wish.start), speed: speed(), more: true });
        shown = ids.length;
        await pause();
        paused = performance.now();
      }
      const done = ids.length - first;
      show(shown, wish, { written: written(wish.start), speed: speed(), ended, done });
    },

    // --- Looking inside ---------------------------------------------------------------

    attention({ isCausal }) {
      const plain = inside();
      const now = isCausal ? plain : watch(plain.tokens, { isCausal });
      const [best] = likeliest(plain.chances, 1), [other] = likeliest(now.chances, 1);
      postMessage({
        kind: "attention",
        tokens: now.tokens.map(token),
        weights: now.weights,
        isCausal,
        best: { ...token(best), chance: plain.chances[best] },
        other: { ...token(other), chance: now.chances[other] },
      });
    },

    lens({ place }) {
      const { tokens, streams } = inside(), C = model.config.d_model;
      const t = Math.min(place ?? Infinity, tokens.length - 1);
      const rows = streams.map((x) => {
        const chances = chancesOf(x.subarray(t * C, (t + 1) * C));
        return likeliest(chances, 3).map((id) => ({ ...token(id), chance: chances[id] }));
      });
      postMessage({ kind: "lens", tokens: tokens.map(token), place: t, rows });
    },

    ablate({ without, sizes }) {
      const { tokens, chances } = inside();
      const now = without.length
        ? watch(tokens, { without: new Set(without) }).chances : chances;
      const both = new Set([...likeliest(chances, sizes.pairs), ...likeliest(now, sizes.pairs)]);
      const rows = [...both].map((id) => ({ ...token(id), before: chances[id], after: now[id] }))
        .sort((a, b) => Math.max(b.before, b.after) - Math.max(a.before, a.after));
      const best = (list) => token(likeliest(list, 1)[0]).text;
      postMessage({ kind: "ablate", without, rows, was: best(chances), is: best(now) });
    },

    // --- Talking ----------------------------------------------------------------------

    async chat({ messages, settings, turn }) {
      const mine = running, began = performance.now();
      let text = "", paused = began, stopped = false;
      for (const piece of TinyGPT.answer(model, tokenizer, messages, settings)) {
        text += piece;
        stopped = mine !== running;
        if (stopped) break;
        if (performance.now() - paused < END) continue;
        postMessage({ kind: "chat", turn, text, more: true });
        await pause();
        paused = performance.now();
      }
      postMessage({ kind: "chat", turn, text, stopped });
    },
  };

  globalThis.onmessage = async ({ data }) => {
    running++;
    try {
      await acts[data.kind](data);
    } catch (error) {
      const own = error instanceof TinyGPT.UserError;
      const sentence = own ? error.message : `The model stopped: ${error.message}`;
      postMessage({ kind: "error", during: data.kind, sentence });
    }
    if (data.kind !== "stop") postMessage({ kind: "done" });
  };
}})();` };
