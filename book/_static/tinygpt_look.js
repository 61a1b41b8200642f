/* Looking at what a model of tinygpt.js has learned: what it writes, whom its heads attend
   to, what it would say after each block, which tokens its embedding holds for alike; and
   models put away in 8 bits (see `snapshotOf` in tinygpt_train.js). What it leaves out:
   learning, drawing. */
"use strict";
(function define(root) {
  const TinyGPT = root.TinyGPT ?? require("./tinygpt.js");

  /** `n` tokens that the model writes after `prompt`, the same for the same seed. */
  function sample(model, tokenizer, { prompt, n = 60, seed = 7, temperature = 0.8, topK = 50 }) {
    const room = model.config.context_length;
    const start = tokenizer.encode(prompt).slice(-room);
    if (!start.length) {
      throw new TinyGPT.UserError("The prompt is empty: give a word to begin with.");
    }
    const ids = [...TinyGPT.generate(model, start, n,
      { seed, temperature, topK, stopToken: tokenizer.endOfText })];
    return { prompt, ids, text: tokenizer.decode(ids.filter((id) => id !== tokenizer.endOfText)) };
  }

  /** The shares of attention in `prompt`, of all heads [L, H, T, T] or of one [T, T]. */
  function attentionOf(model, tokenizer, { prompt, layer, head, isCausal = true }) {
    const { context_length: room, n_layers: L, n_heads: H } = model.config;
    const ids = tokenizer.encode(prompt).slice(0, room), T = ids.length, one = layer !== undefined;
    const weights = new Float32Array((one ? 1 : L * H) * T * T);
    model.vectors(ids, undefined, {
      isCausal,
      attention: (l, h, t, row) => {
        if (one && (l !== layer || h !== head)) return;
        weights.set(row, (one ? 0 : (l * H + h) * T * T) + t * T);
      },
    });
    return { tokens: ids.map((id) => tokenizer.decode([id])), weights };
  }

  /** The tokens whose vectors point most nearly the same way as that of `id`. */
  function neighbours({ tokenEmbedding: { weight, dModel: C } }, tokenizer, id, most = 5) {
    const dot = (i, j) => {
      let sum = 0;
      for (let n = 0; n < C; n++) sum += weight[i * C + n] * weight[j * C + n];
      return sum;
    };
    const length = (i) => Math.sqrt(dot(i, i)) || 1;
    return tokenizer.bytes.map((_, other) => ({ other, cosine: dot(id, other) / length(id) / length(other) }))
      .filter(({ other }) => other !== id).sort((a, b) => b.cosine - a.cosine).slice(0, most)
      .map(({ other, cosine }) => ({ text: tokenizer.decode([other]), cosine }));
  }

  /** The likeliest next token after each block, read with the model's own head. */
  function lens(model, tokenizer, ids) {
    const C = model.config.d_model, rows = [];
    const read = (x) => {
      const shares = TinyGPT.nextTokenProbabilities(model.logits(x.subarray(-C)));
      const best = shares.reduce((a, share, id) => (share > shares[a] ? id : a), 0);
      rows.push({ text: tokenizer.decode([best]), share: shares[best] });
    };
    model.vectors(ids, undefined, { block: (layer, x) => read(x) });
    return rows;
  }

  /** The model of a snapshot: it asks for its weights in the order in which they lie there. */
  function fromSnapshot({ config, values, scales }) {
    let at = 0, r = 0;
    return new TinyGPT.GPT(config, (name, rows, width) => {
      const table = new Float32Array(rows * (width ?? 1)), row = width ?? rows;
      for (let i = 0; i < table.length; i++) {
        table[i] = values[at++] * scales[r + Math.floor(i / row)];
      }
      r += table.length / row;
      return table;
    });
  }

  /** All that is shown of `prompt`, of which at most `room` tokens are looked at. */
  function look(model, tokenizer, { prompt, room, isCausal }) {
    const most = Math.min(room, model.config.context_length);
    const ids = tokenizer.encode(prompt).slice(-most);
    const { text } = sample(model, tokenizer, { prompt, n: 40 });
    return {
      prompt, text, token: tokenizer.decode(ids.slice(-1)),
      attention: attentionOf(model, tokenizer, { prompt: tokenizer.decode(ids), isCausal }),
      near: neighbours(model, tokenizer, ids.at(-1)), lens: lens(model, tokenizer, ids),
    };
  }

  root.tinygptLook = {
    sample, attentionOf, neighbours, lens, fromSnapshot, look,
    source: `(${define})(globalThis);`,
  };
  if (typeof module !== "undefined" && module.exports) module.exports = root.tinygptLook;
})(globalThis);
