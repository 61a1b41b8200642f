/* Our GPT in plain JavaScript: the modules of tinygpt/ in the same order, under the same
   names, so that the two can be read side by side. It runs in a page (from file:// too),
   in a Web Worker and in Node, asks nothing of the network and evaluates no text.

   A table of shape [T, C] is a Float32Array of T * C numbers, one row after another;
   there is no batch axis. What it leaves out: model files and chats (tinygpt_web.js),
   training (tinygpt_backward.js), dropout. */
"use strict";
(function define(root) {

  // --- errors.py --------------------------------------------------------------------

  /** Bad input, told in one sentence: what was wrong and what to do about it. */
  class UserError extends Error {}

  function require(condition, sentence) {
    if (!condition) throw new UserError(sentence);
  }

  // --- text/bpe.py ------------------------------------------------------------------

  const CACHED_WORDS = 1 << 16;  // random text must not fill the memory

  /** The pattern that splits a text into words. \s and \S are spelled out, as JavaScript
      counts other characters. */
  function compilePattern(pattern) {
    const spelled = pattern.replaceAll("\\s", "\\p{White_Space}")
      .replaceAll("\\S", "\\P{White_Space}");
    try {
      return new RegExp(spelled, "gu");
    } catch (error) {
      throw new UserError(`The model file has a pattern that is none (${error.message}): ` +
        "export it again with tinygpt export --format web.");
    }
  }

  /** The UTF-8 bytes of a text, each as one character U+0000 to U+00FF. */
  function toBytes(text) {
    const bytes = new TextEncoder().encode(text);  // a lone surrogate becomes U+FFFD
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  }

  /** A sorted queue of numbers: `push` one, `pop` the smallest. */
  class Heap {
    items = [];

    push(item) {
      const { items } = this;
      let child = items.length;
      while (child > 0) {
        const parent = (child - 1) >> 1;
        if (items[parent] <= item) break;
        items[child] = items[parent];
        child = parent;
      }
      items[child] = item;
    }

    pop() {
      const { items } = this;
      const first = items[0], item = items.pop(), n = items.length;
      for (let parent = 0, child; n > 0; parent = child) {
        child = 2 * parent + 1;
        if (child + 1 < n && items[child + 1] < items[child]) child++;
        if (child >= n || item <= items[child]) {
          items[parent] = item;
          break;
        }
        items[parent] = items[child];
      }
      return first;
    }
  }

  /** The tokens of a word: of all pairs of neighbours, merge the one of the lowest rank
      (the leftmost of several) until no pair is a token. In O(n log n) for n bytes, as a
      text without a space is one long word. */
  function mergeWord(word, ranks) {
    const n = word.length;
    const end = Uint32Array.from({ length: n }, (_, i) => i + 1);  // 0: the part is gone
    const left = Int32Array.from({ length: n + 1 }, (_, i) => i - 1);
    const rank = (i) => ranks.get(word.slice(i, end[end[i]]));  // of the pair at i
    const pairs = new Heap();  // rank * n + i sorts by rank, then by place
    const add = (i) => {
      if (i >= 0 && end[i] < n && rank(i) !== undefined) pairs.push(rank(i) * n + i);
    };
    for (let i = 0; i < n; i++) add(i);
    while (pairs.items.length) {
      const pair = pairs.pop(), i = pair % n, middle = end[i];
      // One of the two may have been merged with another in the meantime.
      if (middle === 0 || middle === n || rank(i) * n + i !== pair) continue;
      end[i] = end[middle];
      end[middle] = 0;
      left[end[i]] = i;
      add(i);
      add(left[i]);
    }
    const parts = [];
    for (let i = 0; i < n; i = end[i]) parts.push(word.slice(i, end[i]));
    return parts;
  }

  // --- Python's str.strip -----------------------------------------------------------

  const SPACE = /[\p{White_Space}\x1c-\x1f]+/u;  // as Python's `strip` and `split` count it

  /** The text without the white space around it. */
  function strip(text) {
    let start = 0, end = text.length;
    while (start < end && SPACE.test(text[start])) start++;
    while (start < end && SPACE.test(text[end - 1])) end--;
    return text.slice(start, end);
  }

  // --- text/tokenizer.py ------------------------------------------------------------

  /** A vocabulary: text -> ids and back. */
  class Tokenizer {
    /** `vocabulary[id]` are the token's bytes, one character each; null for a gap. */
    constructor({ name, pattern, vocabulary, special_tokens }) {
      this.name = name;
      this.pattern = pattern;
      this.words = compilePattern(pattern);
      this.ranks = new Map();
      vocabulary.forEach((token, id) => { if (token !== null) this.ranks.set(token, id); });
      this.specialTokens = new Map(Object.entries(special_tokens));
      this.bytes = vocabulary.slice();
      for (const [token, id] of this.specialTokens) this.bytes[id] = toBytes(token);
      this.vocabSize = this.bytes.length;
      for (let byte = 0; byte < 256; byte++) {
        require(this.ranks.has(String.fromCharCode(byte)),
          `Tokenizer ${name} has no entry for the byte ${byte}, so it cannot write every text.`);
      }
      this.cache = new Map();
    }

    /** The id of <|endoftext|>, or undefined. */
    get endOfText() {
      return this.specialTokens.get("<|endoftext|>");
    }

    /** The ids of a text; with `allowSpecial`, special tokens in it become their ids. */
    encode(text, allowSpecial = false) {
      let pieces = [text];
      if (allowSpecial && this.specialTokens.size) {
        const longestFirst = [...this.specialTokens.keys()].sort((a, b) => b.length - a.length);
        const escaped = longestFirst.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
        pieces = text.split(new RegExp(`(${escaped.join("|")})`));
      }
      const ids = [];
      for (const piece of pieces) {
        if (allowSpecial && this.specialTokens.has(piece)) {
          ids.push(this.specialTokens.get(piece));
          continue;
        }
        for (const [word] of piece.matchAll(this.words)) {
          for (const id of this.cache.get(word) ?? this.encodeWord(word)) ids.push(id);
        }
      }
      return ids;
    }

    encodeWord(word) {
      const raw = toBytes(word);
      const whole = this.ranks.get(raw);  // tiktoken's rule, wherever the merges lead
      const ids = whole !== undefined
        ? [whole]
        : mergeWord(raw, this.ranks).map((token) => this.ranks.get(token));
      if (this.cache.size < CACHED_WORDS) this.cache.set(word, ids);
      return ids;
    }

    /** The text of the ids; bytes that are not UTF-8 become U+FFFD. */
    decode(ids) {
      return [...streamText(ids, this)].join("");
    }

    /** The bytes of one id; U+FFFD for a row of the model that no token has. */
    tokenBytes(id) {
      return Uint8Array.from(this.bytes[id] ?? "\xef\xbf\xbd", (byte) => byte.charCodeAt(0));
    }
  }

  // --- model/embeddings.py ----------------------------------------------------------

  /** One learned vector per token: ids [T] -> rows of `weight` [T, C]. */
  class TokenEmbedding {
    constructor(take, name, vocabSize, dModel) {
      this.dModel = dModel;
      this.weight = take(`${name}.weight`, vocabSize, dModel);
    }

    forward(ids) {
      const C = this.dModel, x = new Float32Array(ids.length * C);
      ids.forEach((id, t) => x.set(this.weight.subarray(id * C, (id + 1) * C), t * C));
      return x;
    }
  }

  // --- model/positional.py ----------------------------------------------------------

  /** The table of sines and cosines [T, C], each sine followed by its cosine. */
  function sinusoidalPositions(contextLength, dModel) {
    const table = new Float32Array(contextLength * dModel);
    for (let t = 0; t < contextLength; t++) {
      for (let i = 0; i < dModel; i += 2) {
        const angle = t * 10000 ** (-i / dModel);
        table[t * dModel + i] = Math.sin(angle);
        table[t * dModel + i + 1] = Math.cos(angle);
      }
    }
    return table;
  }

  /** A row of `table` [contextLength, C] for every place, learned or sinusoidal. */
  class TablePositions {
    constructor(table, dModel) {
      this.table = table;
      this.dModel = dModel;
    }

    /** Add the rows of the places past, past + 1, ... to `x` [T, C]. */
    addTo(x, past) {
      const from = past * this.dModel;
      for (let i = 0; i < x.length; i++) x[i] += this.table[from + i];
    }
  }

  /** Turn pairs of numbers in a query or key by an angle that grows with position. */
  class RotaryPositions {
    constructor(contextLength, headDim, base = 10000) {
      this.half = headDim / 2;
      this.cos = new Float32Array(contextLength * this.half);
      this.sin = new Float32Array(contextLength * this.half);
      for (let t = 0; t < contextLength; t++) {
        for (let i = 0; i < this.half; i++) {
          const angle = t * base ** (-2 * i / headDim);
          this.cos[t * this.half + i] = Math.cos(angle);
          this.sin[t * this.half + i] = Math.sin(angle);
        }
      }
    }

    /** Turn, in place, the heads in `x` [H * D] of the token that stands at `position`. */
    turn(x, position) {
      const { half, cos, sin } = this, row = position * half;
      for (let head = 0; head < x.length; head += 2 * half) {
        for (let i = 0; i < half; i++) {
          const first = x[head + i], second = x[head + half + i];
          x[head + i] = first * cos[row + i] - second * sin[row + i];
          x[head + half + i] = first * sin[row + i] + second * cos[row + i];
        }
      }
    }
  }

  // --- model/attention.py -----------------------------------------------------------

  /** The sum of a[i + n] * b[j + n] for n from 0 to length - 1; in four parts, as a
      processor adds four sums at once faster than one number after another. */
  function dot(a, i, b, j, length) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, n = 0;
    for (; n + 3 < length; n += 4) {
      s0 += a[i + n] * b[j + n];
      s1 += a[i + n + 1] * b[j + n + 1];
      s2 += a[i + n + 2] * b[j + n + 2];
      s3 += a[i + n + 3] * b[j + n + 3];
    }
    for (; n < length; n++) s0 += a[i + n] * b[j + n];
    return s0 + s1 + s2 + s3;
  }

  /** x [T, in] -> x weight^T + bias [T, out], as in torch.nn.Linear. */
  class Linear {
    constructor(take, name, inputs, outputs, bias) {
      this.inputs = inputs;
      this.outputs = outputs;
      this.weight = take(`${name}.weight`, outputs, inputs);
      this.bias = bias ? take(`${name}.bias`, outputs) : null;
    }

    forward(x) {
      const { outputs, bias } = this, y = this.product(x);
      if (bias) {
        for (let to = 0; to < y.length; to += outputs) {
          for (let o = 0; o < outputs; o++) y[to + o] += bias[o];
        }
      }
      return y;
    }

    /** x weight^T, four outputs at once: each number of x is fetched once for four
        products. tinygpt_simd.js puts its own in this one's place. */
    product(x) {
      const { inputs, outputs, weight } = this, T = x.length / inputs;
      const y = new Float32Array(T * outputs);
      for (let o = 0; o < outputs; o += 4) {
        const a = o * inputs, b = a + inputs, c = b + inputs, d = c + inputs;
        for (let t = 0; t < T; t++) {
          const row = t * inputs, to = t * outputs + o;
          if (o + 4 > outputs) {  // the last one, two or three
            for (let n = 0; o + n < outputs; n++) {
              y[to + n] = dot(weight, a + n * inputs, x, row, inputs);
            }
            continue;
          }
          let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
          for (let n = 0; n < inputs; n++) {
            const value = x[row + n];
            s0 += weight[a + n] * value;
            s1 += weight[b + n] * value;
            s2 += weight[c + n] * value;
            s3 += weight[d + n] * value;
          }
          y[to] = s0;
          y[to + 1] = s1;
          y[to + 2] = s2;
          y[to + 3] = s3;
        }
      }
      return y;
    }
  }

  /** Scores -> shares that sum to 1, in place. */
  function softmax(scores) {
    let largest = -Infinity, sum = 0;
    for (const score of scores) largest = Math.max(largest, score);
    for (let i = 0; i < scores.length; i++) {
      scores[i] = Math.exp(scores[i] - largest);  // at most 1, so nothing overflows
      sum += scores[i];
    }
    for (let i = 0; i < scores.length; i++) scores[i] /= sum;
    return scores;
  }

  /** How much the query q [D] at `i` listens to each of S keys [S, C]: shares [S]. */
  function attentionWeights(q, i, keys, S, C, D) {
    const scores = new Float32Array(S), root = Math.sqrt(D);
    for (let s = 0; s < S; s++) scores[s] = dot(q, i, keys, s * C + i, D) / root;
    return softmax(scores);
  }

  /** What the heads of a query q [C] gather from S `keys` and `values` [S, C]: [C].
      `told(h, weights)` hears each head's shares; heads with `isOut(h)` gather nothing. */
  function gather(q, keys, values, S, D, told, isOut) {
    const C = q.length, mixed = new Float32Array(C);
    for (let from = 0; from < C; from += D) {
      if (isOut?.(from / D)) continue;
      const weights = attentionWeights(q, from, keys, S, C, D);
      told?.(from / D, weights);
      for (let s = 0; s < S; s++) {
        for (let i = from; i < from + D; i++) mixed[i] += weights[s] * values[s * C + i];
      }
    }
    return mixed;
  }

  /** Several attentions side by side, each on its own slice of C = H * D. */
  class MultiHeadAttention {
    constructor(take, name, dModel, nHeads, { qkvBias, outputBias, qkNorm }) {
      this.dModel = dModel;
      this.headDim = dModel / nHeads;
      this.qkNorm = qkNorm;
      this.qkv = new Linear(take, `${name}.qkv`, dModel, 3 * dModel, qkvBias);
      this.output = new Linear(take, `${name}.output`, dModel, dModel, outputBias);
    }

    /** Let each of T tokens of `x` [T, C] gather what it wants from those it may see.
        `cache` holds the past; `look` is described at GPT.vectors. */
    forward(x, layer, cache, rotary, look) {
      const { dModel: C, headDim: D } = this;
      const T = x.length / C, past = cache.length;
      const qkv = this.qkv.forward(x);  // [T, 3C]: of each token q, then k, then v
      for (let t = 0; t < T; t++) {
        const [q, k, v] = [0, 1, 2].map((n) => qkv.subarray((3 * t + n) * C, (3 * t + n + 1) * C));
        if (this.qkNorm) for (const heads of [q, k]) heads.set(rmsNorm(heads, D, 2 ** -23));
        if (rotary) for (const heads of [q, k]) rotary.turn(heads, past + t);
        cache.extend(layer, past + t, k, v);
      }
      const [keys, values] = cache.tables[layer], { attention, without } = look;
      const mixed = new Float32Array(T * C);
      for (let t = 0; t < T; t++) {
        const q = qkv.subarray(3 * t * C, (3 * t + 1) * C);
        const S = look.isCausal === false ? past + T : past + t + 1;
        const told = attention && ((h, weights) => attention(layer, h, past + t, weights));
        const isOut = without && ((h) => without.has(`${layer}.${h}`));
        mixed.set(cache.gather && !told && !isOut
          ? cache.gather(layer, q, S)  // of tinygpt_simd.js
          : gather(q, keys, values, S, D, told, isOut), t * C);
      }
      return this.output.forward(mixed);
    }
  }

  // --- model/kv_cache.py ------------------------------------------------------------

  /** Keys and values of all past tokens, one pair of tables [contextLength, C] per layer.
      `length` counts the tokens held; making it smaller forgets the last ones. */
  class KVCache {
    constructor(nLayers, contextLength, dModel) {
      const table = () => new Float32Array(contextLength * dModel);
      this.tables = Array.from({ length: nLayers }, () => [table(), table()]);
      this.dModel = dModel;
      this.length = 0;
    }

    /** Store key and value [C] of the token at `position`. */
    extend(layer, position, k, v) {
      this.tables[layer][0].set(k, position * this.dModel);
      this.tables[layer][1].set(v, position * this.dModel);
    }

    /** Count `n` tokens more as held, after every layer has written them. */
    advance(n) {
      this.length += n;
    }
  }

  // --- model/block.py ---------------------------------------------------------------

  /** Shift and scale every row of `x` [T, C] to mean 0 and variance 1. */
  function layerNorm(x, C, eps = 1e-5) {
    const y = new Float32Array(x.length);
    for (let row = 0; row < x.length; row += C) {
      let sum = 0, squares = 0;
      for (let c = 0; c < C; c++) sum += x[row + c];
      const mean = sum / C;
      for (let c = 0; c < C; c++) squares += (x[row + c] - mean) * (x[row + c] - mean);
      const scale = 1 / Math.sqrt(squares / C + eps);
      for (let c = 0; c < C; c++) y[row + c] = (x[row + c] - mean) * scale;
    }
    return y;
  }

  /** Scale every row of `x` [T, C] to a root mean square of 1; the mean stays. */
  function rmsNorm(x, C, eps = 1e-5) {
    const y = new Float32Array(x.length);
    for (let row = 0; row < x.length; row += C) {
      const scale = 1 / Math.sqrt(dot(x, row, x, row, C) / C + eps);
      for (let c = 0; c < C; c++) y[row + c] = x[row + c] * scale;
    }
    return y;
  }

  /** `layerNorm` with a learned gain and a learned bias per number. */
  class LayerNorm {
    constructor(take, name, dModel) {
      this.weight = take(`${name}.weight`, dModel);
      this.bias = take(`${name}.bias`, dModel);
    }

    forward(x) {
      const { weight, bias } = this, C = weight.length, y = layerNorm(x, C);
      for (let row = 0; row < y.length; row += C) {
        for (let c = 0; c < C; c++) y[row + c] = y[row + c] * weight[c] + bias[c];
      }
      return y;
    }
  }

  /** `rmsNorm`; nothing is learned. */
  class RMSNorm {
    constructor(take, name, dModel) {
      this.dModel = dModel;
    }

    forward(x) {
      return rmsNorm(x, this.dModel);
    }
  }

  const NORMS = { layernorm: LayerNorm, rmsnorm: RMSNorm };

  const ACTIVATIONS = {
    relu: (x) => Math.max(0, x),
    gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
    relu2: (x) => (x > 0 ? x * x : 0),
    swiglu: (x) => x / (1 + Math.exp(-x)),  // a SiLU gate beside the values
  };

  /** Two linear layers with a bend between them, for every token on its own. */
  class FeedForward {
    constructor(take, name, dModel, dFf, { activation, bias }) {
      this.dFf = dFf;
      this.gated = activation === "swiglu";
      this.activation = ACTIVATIONS[activation];
      this.input = new Linear(take, `${name}.input`, dModel, this.gated ? 2 * dFf : dFf, bias);
      this.output = new Linear(take, `${name}.output`, dFf, dModel, bias);
    }

    forward(x) {
      let hidden = this.input.forward(x);
      if (this.gated) {  // [T, 2 dFf]: of each token the gate, then the values
        const F = this.dFf, both = hidden;
        hidden = new Float32Array(both.length / 2).map((_, i) => {
          const gate = i + Math.floor(i / F) * F;
          return this.activation(both[gate]) * both[gate + F];
        });
      } else {
        this.bend(hidden);
      }
      return this.output.forward(hidden);
    }

    /** The activation of every number, in place; also in tinygpt_simd.js. */
    bend(hidden) {
      for (let i = 0; i < hidden.length; i++) hidden[i] = this.activation(hidden[i]);
    }
  }

  /** a + b, number by number. */
  function add(a, b) {
    const sum = new Float32Array(a.length);
    for (let i = 0; i < a.length; i++) sum[i] = a[i] + b[i];
    return sum;
  }

  /** Attention lets tokens talk, the feed-forward lets each think; both are added. */
  class TransformerBlock {
    constructor(take, name, config) {
      const { d_model: C, norm, bias, activation } = config;
      this.pre = config.norm_placement === "pre";
      this.norm1 = new NORMS[norm](take, `${name}.norm1`, C);
      this.attention = new MultiHeadAttention(take, `${name}.attention`, C, config.n_heads, {
        qkvBias: bias && config.qkv_bias, outputBias: bias, qkNorm: config.qk_norm,
      });
      this.norm2 = new NORMS[norm](take, `${name}.norm2`, C);
      this.feedForward = new FeedForward(take, `${name}.feed_forward`, C,
        config.d_ff ?? 4 * C, { activation, bias });
    }

    forward(x, ...attend) {
      if (this.pre) {
        x = add(x, this.attention.forward(this.norm1.forward(x), ...attend));
        return add(x, this.feedForward.forward(this.norm2.forward(x)));
      }
      x = this.norm1.forward(add(x, this.attention.forward(x, ...attend)));
      return this.norm2.forward(add(x, this.feedForward.forward(x)));
    }
  }

  // --- model/gpt.py -----------------------------------------------------------------

  /** Token ids in, logits out, and nothing else. */
  class GPT {
    /** `take(name, ...shape)` gives a weight under the name that PyTorch knows. */
    constructor(config, take) {
      const { vocab_size: V, context_length: T, d_model: C, positions } = config;
      this.config = config;
      this.tokenEmbedding = new TokenEmbedding(take, "token_embedding", V, C);
      this.positions = null;
      this.rotary = null;
      if (positions === "rotary") this.rotary = new RotaryPositions(T, C / config.n_heads);
      else if (positions === "sinusoidal") {
        this.positions = new TablePositions(sinusoidalPositions(T, C), C);
      } else this.positions = new TablePositions(take("positions.weight", T, C), C);
      const norm = (name) => new NORMS[config.norm](take, name, C);
      this.embeddingNorm = config.embedding_norm ? norm("embedding_norm") : null;
      this.blocks = Array.from({ length: config.n_layers },
        (_, layer) => new TransformerBlock(take, `blocks.${layer}`, config));
      this.norm = norm("norm");
      const tied = (name, ...shape) =>
        config.tie_head ? this.tokenEmbedding.weight : take(name, ...shape);
      this.head = new Linear(tied, "head", C, V, false);
      if (config.head_bias) this.head.bias = take("head.bias", V);
    }

    /** An empty cache with room for the whole context. */
    newCache() {
      const { n_layers, context_length, d_model } = this.config;
      return new KVCache(n_layers, context_length, d_model);
    }

    /** The vectors [T, C] that enter the first block. */
    embed(ids, past = 0) {
      const x = this.tokenEmbedding.forward(ids);
      this.positions?.addTo(x, past);
      return this.embeddingNorm ? this.embeddingNorm.forward(x) : x;
    }

    /** What the vectors `x` [T, C] say about the next token: [T, V]. */
    logits(x) {
      const logits = this.head.forward(this.norm.forward(x)), { logit_softcap: cap } = this.config;
      if (cap) this.soften(logits, cap);
      return logits;
    }

    /** Bend the logits, in place, so that none goes beyond `cap` either way; also in
        tinygpt_simd.js. */
    soften(logits, cap) {
      for (let i = 0; i < logits.length; i++) logits[i] = cap * Math.tanh(logits[i] / cap);
    }

    /** The vectors [T, C] that leave the last block; `ids` are added to the cache.

        `look` is for those who want to see inside: `attention(layer, head, t, weights)`
        and `block(layer, x)` are called with what they are named for; `without` is a
        set of blocks ("2") and heads ("2.0") to leave out; `isCausal` false lets every
        token see those behind it too. */
    vectors(ids, cache = this.newCache(), look = {}) {
      const { context_length: room, vocab_size } = this.config;
      require(cache.length + ids.length <= room,
        `${cache.length + ids.length} tokens, but the context holds ${room}`);
      require(ids.every((id) => Number.isInteger(id) && id >= 0 && id < vocab_size),
        `A token id lies outside the vocabulary of ${vocab_size}: is this the model's tokenizer?`);
      let x = this.embed(ids, cache.length);
      this.blocks.forEach((block, layer) => {
        if (!look.without?.has(`${layer}`)) {
          x = block.forward(x, layer, cache, this.rotary, look);
        }
        look.block?.(layer, x);
      });
      cache.advance(ids.length);
      return x;
    }

    /** Logits [T, V] for the token after each of `ids`. */
    forward(ids, cache, look) {
      return this.logits(this.vectors(ids, cache, look));
    }

    /** Logits [V] for the token after the last of `ids` only. */
    nextLogits(ids, cache, look) {
      return this.logits(this.vectors(ids, cache, look).subarray(-this.config.d_model));
    }
  }

  // --- generation/sampling.py -------------------------------------------------------

  /** The distribution [V] that `sampleNextToken` draws from: temperature, then top-k,
      then top-p; of equal logits, the lower id counts as the likelier. */
  function nextTokenProbabilities(logits, { temperature = 1, topK = null, topP = null } = {}) {
    require(temperature >= 0, `temperature must be at least 0, not ${temperature}`);
    require(topK === null || topK >= 1, `top_k must be at least 1, not ${topK}`);
    require(topP === null || (topP > 0 && topP <= 1),
      `top_p must be more than 0 and at most 1, not ${topP}`);
    if (temperature === 0) {
      const winner = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
      return new Float32Array(logits.length).fill(1, winner, winner + 1);
    }
    const scaled = logits.map((logit) => logit / temperature);
    if (topK === null && (topP === null || topP === 1)) return softmax(scaled);
    const order = Uint32Array.from(scaled.keys()).sort((a, b) => scaled[b] - scaled[a] || a - b);
    const kept = order.subarray(0, topK ?? order.length);
    let shares = softmax(Float32Array.from(kept, (id) => scaled[id]));
    if (topP !== null && topP < 1) {
      let before = 0, n = 0;
      while (n < shares.length && before < topP) before += shares[n++];
      shares = shares.subarray(0, n).map((share) => share / before);
    }
    const probabilities = new Float32Array(logits.length);
    shares.forEach((share, n) => { probabilities[kept[n]] = share; });
    return probabilities;
  }

  /** A function that gives numbers in [0, 1), always the same ones for the same seed.
      They are not PyTorch's. Source: Ettinger, mulberry32 (public domain). */
  function seededRandom(seed = Math.floor(Math.random() * 2 ** 32)) {
    let state = seed | 0;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** Draw one token from `nextTokenProbabilities`; `random` gives a number in [0, 1). */
  function sampleNextToken(logits, options, random) {
    const probabilities = nextTokenProbabilities(logits, options);
    let rest = random(), last = 0;
    for (let id = 0; id < probabilities.length; id++) {
      if (probabilities[id] === 0) continue;
      last = id;
      rest -= probabilities[id];
      if (rest < 0) break;
    }
    return last;
  }

  // --- generation/generate.py -------------------------------------------------------

  /** Where the model's view begins when the text has grown to `nTokens`: it lets go of
      half a context at a time. windowStart of 8, 9, 12, 13 at 8 is 0, 4, 4, 8. */
  function windowStart(nTokens, contextLength) {
    const half = Math.max(1, Math.floor(contextLength / 2));
    return Math.ceil(Math.max(0, nTokens - contextLength) / half) * half;
  }

  /** Go on writing after `ids`: yields one id after another. */
  function* generate(model, ids, maxNewTokens, { seed, stopToken, ...options } = {}) {
    const contextLength = model.config.context_length;
    require(ids.length >= 1 && ids.length <= contextLength,
      `a prompt needs 1 to ${contextLength} tokens, not ${ids.length}`);
    const random = seededRandom(seed), cache = model.newCache();
    let start = 0;
    ids = [...ids];
    for (let n = 0; n < maxNewTokens; n++) {
      const moved = windowStart(ids.length, contextLength);
      if (moved !== start) cache.length = 0;  // the view moved on: every position changed
      start = moved;
      const logits = model.nextLogits(ids.slice(start + cache.length), cache);
      const token = sampleNextToken(logits, options, random);
      yield token;
      if (token === stopToken) return;
      ids.push(token);
    }
  }

  // --- generation/streaming.py ------------------------------------------------------

  /** Text of `tokens` piece by piece, never half a character. */
  function* streamText(tokens, tokenizer) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for (const token of tokens) {
      const piece = decoder.decode(tokenizer.tokenBytes(token), { stream: true });
      if (piece) yield piece;
    }
    const rest = decoder.decode();
    if (rest) yield rest;
  }

  // ----------------------------------------------------------------------------------

  const TinyGPT = {
    UserError, Tokenizer, GPT, KVCache, nextTokenProbabilities, sampleNextToken,
    seededRandom, windowStart, generate, streamText, compilePattern, SPACE, strip, Heap,
    source: `(${define})(globalThis);`,  // for a Worker: file:// lets it load no script
  };
  root.TinyGPT = TinyGPT;
  if (typeof module !== "undefined" && module.exports) module.exports = TinyGPT;
})(globalThis);
