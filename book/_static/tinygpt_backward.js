/* The way back in plain JavaScript: the layers of tinygpt.js once more, each with its
   backward pass; the network made of them; AdamW and Muon. The names are those of tinygpt/,
   so that the two can be read side by side.

   A table of shape [N, C] is an array of N * C numbers, one row after another, where
   N = B * T counts the tokens of a batch. Layers take Float32Array or Float64Array and
   write into tables that the caller gives. tinygpt_train_simd.js has WebAssembly twins of
   the slow ones. What it leaves out: dropout, post-norm, SwiGLU, sinusoidal positions;
   texts, plans and the loop (see tinygpt_train.js). */
"use strict";
(function define(root) {

  // --- Layers, forward and backward ---------------------------------------------------
  // The gradient of the loss with respect to a table x is called dx. A backward function
  // takes dy, writes dx and adds to the gradients of weights, which a batch sums.

  /** The sum that everything is made of: c[m, n] += sum over k of a[m, k] b[k, n].
      a[m, k] stands at m * aRow + k * aCol, b likewise, c[m, n] at m * cRow + n. Exchange
      a matrix's two steps, and it is transposed. Both are copied first, so that k runs
      along their rows; then four rows of a meet one of b, each of whose numbers is
      fetched once for four products. */
  function product(M, N, K, a, aRow, aCol, b, bRow, bCol, c, cRow) {
    const rows = alongRows(a, aRow, aCol, M, K), columns = alongRows(b, bCol, bRow, N, K);
    for (let m = 0; m < M; m += 4) {
      const left = Math.min(4, M - m), i0 = m * K;
      const i1 = i0 + (left > 1 ? K : 0), i2 = i0 + (left > 2 ? 2 * K : 0);
      const i3 = i0 + (left > 3 ? 3 * K : 0);
      for (let n = 0; n < N; n++) {
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (let k = 0, j = n * K; k < K; k++, j++) {
          const value = columns[j];
          s0 += rows[i0 + k] * value;
          s1 += rows[i1 + k] * value;
          s2 += rows[i2 + k] * value;
          s3 += rows[i3 + k] * value;
        }
        const at = m * cRow + n;
        c[at] += s0;
        if (left > 1) c[at + cRow] += s1;
        if (left > 2) c[at + 2 * cRow] += s2;
        if (left > 3) c[at + 3 * cRow] += s3;
      }
    }
  }

  /** The [M, K] numbers of `a` at m * row + k * column, in one piece. */
  function alongRows(a, row, column, M, K) {
    if (column === 1 && row === K) return a;
    const copy = new a.constructor(M * K);
    for (let k = 0; k < K; k++) {
      for (let m = 0; m < M; m++) copy[m * K + k] = a[m * row + k * column];
    }
    return copy;
  }

  /** a = x a + y b, number by number. */
  function blend(a, b, x, y) {
    for (let i = 0; i < a.length; i++) a[i] = x * a[i] + y * b[i];
  }

  /** The sum of a b, number by number. */
  function dot(a, b) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  }

  /** Token ids [N] -> rows of `table` [V, C]. */
  function embed(ids, table, x, C) {
    for (let n = 0; n < ids.length; n++) {
      for (let c = 0; c < C; c++) x[n * C + c] = table[ids[n] * C + c];
    }
  }

  /** A row was copied to every place of its token, so it gets the sum of their gradients. */
  function embedBackward(ids, dx, dTable, C) {
    for (let n = 0; n < ids.length; n++) {
      for (let c = 0; c < C; c++) dTable[ids[n] * C + c] += dx[n * C + c];
    }
  }

  /** Add row t of `table` [T, C] to place t of each window of x [B T, C]. */
  function addPositions(x, table, T, C) {
    for (let i = 0; i < x.length; i++) x[i] += table[i % (T * C)];
  }

  function addPositionsBackward(dx, dTable, T, C) {
    for (let i = 0; i < dx.length; i++) dTable[i % (T * C)] += dx[i];
  }

  /** Rows of x to mean 0 and variance 1, times `weight`, plus `bias`; `stats` [N, 2]
      keeps each row's mean and 1 / deviation. */
  function layerNorm(x, weight, bias, y, stats, C, eps = 1e-5) {
    for (let row = 0, s = 0; row < x.length; row += C, s += 2) {
      let sum = 0, squares = 0;
      for (let c = 0; c < C; c++) sum += x[row + c];
      const mean = sum / C;
      for (let c = 0; c < C; c++) squares += (x[row + c] - mean) * (x[row + c] - mean);
      const scale = 1 / Math.sqrt(squares / C + eps);
      for (let c = 0; c < C; c++) {
        y[row + c] = (x[row + c] - mean) * scale * weight[c] + bias[c];
      }
      stats[s] = mean;
      stats[s + 1] = scale;
    }
  }

  /** With z the normalised row and g = dy weight:
      dx = scale (g - mean(g) - z mean(g z)), dWeight = sum of dy z, dBias = sum of dy. */
  function layerNormBackward(dy, x, weight, stats, dx, dWeight, dBias, C) {
    for (let row = 0, s = 0; row < x.length; row += C, s += 2) {
      const mean = stats[s], scale = stats[s + 1];
      let sum = 0, along = 0;
      for (let c = 0; c < C; c++) {
        const z = (x[row + c] - mean) * scale, g = dy[row + c] * weight[c];
        sum += g;
        along += g * z;
        dWeight[c] += dy[row + c] * z;
        dBias[c] += dy[row + c];
      }
      for (let c = 0; c < C; c++) {
        const z = (x[row + c] - mean) * scale, g = dy[row + c] * weight[c];
        dx[row + c] = scale * (g - sum / C - z * along / C);
      }
    }
  }

  /** `width` numbers from every `step` on, in groups of C, to a root mean square of 1;
      `stats` keeps each group's factor. y may be x. */
  function rmsNorm(x, y, stats, C, { eps = 1e-5, step = C, width = step } = {}) {
    let s = 0;
    for (let row = 0; row < x.length; row += step) {
      for (let at = row; at < row + width; at += C) {
        let squares = 0;
        for (let c = 0; c < C; c++) squares += x[at + c] * x[at + c];
        const scale = 1 / Math.sqrt(squares / C + eps);
        for (let c = 0; c < C; c++) y[at + c] = x[at + c] * scale;
        stats[s++] = scale;
      }
    }
  }

  /** dx = scale (dy - y mean(dy y)); it needs what came out, y. dx may be dy. */
  function rmsNormBackward(dy, y, stats, dx, C, { step = C, width = step } = {}) {
    let s = 0;
    for (let row = 0; row < y.length; row += step) {
      for (let at = row; at < row + width; at += C) {
        let along = 0;
        for (let c = 0; c < C; c++) along += dy[at + c] * y[at + c];
        const scale = stats[s++];
        for (let c = 0; c < C; c++) dx[at + c] = scale * (dy[at + c] - y[at + c] * along / C);
      }
    }
  }

  /** GPT-2's GELU and its slope; ReLU; ReLU^2. */
  const ROOT = Math.sqrt(2 / Math.PI), CUBE = 0.044715;
  const ACTIVATIONS = {
    relu: [(x) => Math.max(0, x), (x) => (x > 0 ? 1 : 0)],
    relu2: [(x) => (x > 0 ? x * x : 0), (x) => (x > 0 ? 2 * x : 0)],
    gelu: [
      (x) => 0.5 * x * (1 + Math.tanh(ROOT * (x + CUBE * x * x * x))),
      (x) => {
        const t = Math.tanh(ROOT * (x + CUBE * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * CUBE * x * x);
      },
    ],
  };

  function activate(kind, x, y) {
    const [act] = ACTIVATIONS[kind];
    for (let i = 0; i < x.length; i++) y[i] = act(x[i]);
  }

  /** dx = dy times the slope at x. dx may be dy. */
  function activateBackward(kind, dy, x, dx) {
    const [, slope] = ACTIVATIONS[kind];
    for (let i = 0; i < x.length; i++) dx[i] = dy[i] * slope(x[i]);
  }

  /** The first `width` numbers of every row of `step` hold heads of D: turn the pairs
      (i, i + D / 2) of each by the angle of its place. With `sign` -1 back again, which is
      also the backward pass, as a rotation's transpose is its inverse. */
  function rotate(x, cos, sin, T, D, { step, width, sign = 1 }) {
    const half = D / 2;
    for (let row = 0, n = 0; row < x.length; row += step, n++) {
      const angle = (n % T) * half;
      for (let at = row; at < row + width; at += D) {
        for (let i = 0; i < half; i++) {
          const first = x[at + i], second = x[at + half + i];
          const u = cos[angle + i], v = sign * sin[angle + i];
          x[at + i] = first * u - second * v;
          x[at + half + i] = first * v + second * u;
        }
      }
    }
  }

  /** Scores [T, T] -> shares, each row softmax(scores * scale) over the keys that it may
      see: with `isCausal` those up to itself; the others get 0. */
  function softmaxRows(scores, T, scale, isCausal) {
    for (let t = 0; t < T; t++) {
      const row = t * T, seen = isCausal ? t + 1 : T;
      let largest = -Infinity, sum = 0;
      for (let s = 0; s < seen; s++) largest = Math.max(largest, scores[row + s]);
      for (let s = 0; s < seen; s++) {
        scores[row + s] = Math.exp((scores[row + s] - largest) * scale);
        sum += scores[row + s];
      }
      for (let s = 0; s < seen; s++) scores[row + s] /= sum;
      scores.fill(0, row + seen, row + T);
    }
  }

  /** From the gradients of the shares, in place, those of the scores:
      dScore = share (dShare - sum of dShare share) scale. */
  function softmaxRowsBackward(dShares, shares, T, scale) {
    for (let row = 0; row < T * T; row += T) {
      let along = 0;
      for (let s = 0; s < T; s++) along += dShares[row + s] * shares[row + s];
      for (let s = 0; s < T; s++) {
        dShares[row + s] = shares[row + s] * (dShares[row + s] - along) * scale;
      }
    }
  }

  /** `losses` [N]: the nats by which `targets` [N] surprise, minus log softmax(logits)
      [N, V]; a target below 0 does not count. With a `cap`, logits are bent into plus or
      minus it first. The logits become, in place, the gradients of the losses' sum times
      `scale`: softmax minus 1 at the target. */
  function crossEntropy(logits, targets, losses, V, scale, cap = 0) {
    for (let n = 0; n < targets.length; n++) {
      const row = logits.subarray(n * V, (n + 1) * V), target = targets[n];
      if (target < 0) {
        losses[n] = 0;
        row.fill(0);
        continue;
      }
      let largest = -Infinity, sum = 0;
      for (let v = 0; v < V; v++) {
        if (cap) row[v] = cap * Math.tanh(row[v] / cap);
        largest = Math.max(largest, row[v]);
      }
      for (let v = 0; v < V; v++) sum += Math.exp(row[v] - largest);
      const total = largest + Math.log(sum);
      losses[n] = total - row[target];
      for (let v = 0; v < V; v++) {
        const bent = row[v] / cap, slope = cap ? 1 - bent * bent : 1;
        row[v] = scale * slope * (Math.exp(row[v] - total) - (v === target ? 1 : 0));
      }
    }
  }

  /** One AdamW step of a whole table; `rate` holds the learning rate, `decay` and betas;
      the step's number `t` counts from 1. */
  function adamw(weight, gradient, mean, square, { lr, decay, beta1, beta2, t }) {
    const step = lr / (1 - beta1 ** t), unbias = 1 / Math.sqrt(1 - beta2 ** t);
    for (let i = 0; i < weight.length; i++) {
      mean[i] += (1 - beta1) * (gradient[i] - mean[i]);
      square[i] = beta2 * square[i] + (1 - beta2) * gradient[i] * gradient[i];
      weight[i] -= lr * decay * weight[i];
      weight[i] -= step * mean[i] / (Math.sqrt(square[i]) * unbias + 1e-8);
    }
  }

  /** The layers that consist of the ones above; `own` are those, or faster twins. */
  function compose(own) {
    const { product, blend, dot, softmaxRows, softmaxRowsBackward } = own;

    /** a += b: a residual connection, whose gradient goes both ways. */
    function add(a, b) {
      blend(a, b, 1, 1);
    }

    /** x [N, I] -> x weight^T + bias [N, O], as in torch.nn.Linear. */
    function linear(x, weight, bias, y, I, O) {
      const N = x.length / I;
      if (!bias) y.fill(0);
      else for (let row = 0; row < N * O; row += O) y.set(bias, row);
      product(N, O, I, x, I, 1, weight, 1, I, y, O);
    }

    /** dx = dy weight, dWeight = dy^T x, dBias = the sum of dy's rows. */
    function linearBackward(dy, x, weight, dx, dWeight, dBias, I, O) {
      const N = x.length / I;
      if (dx) {
        dx.fill(0);
        product(N, I, O, dy, O, 1, weight, I, 1, dx, I);
      }
      product(O, I, N, dy, 1, O, x, I, 1, dWeight, I);
      if (dBias) {
        for (let row = 0; row < dy.length; row += O) {
          for (let o = 0; o < O; o++) dBias[o] += dy[row + o];
        }
      }
    }

    /** Call `act` with the places of every window's and head's q in qkv [B T, 3C], of its
        output in y [B T, C] and of its shares; k stands C, v 2 C after q. */
    function eachHead(qkv, { T, C, H }, act) {
      let p = 0;
      for (let window = 0; window < qkv.length; window += 3 * T * C) {
        for (let head = 0; head < C; head += C / H, p += T * T) {
          act(window + head, window / 3 + head, p);
        }
      }
    }

    /** Of each window and head: shares = softmax(q k^T / sqrt(D)) [T, T], y = shares v.
        `shares` [B, H, T, T] keeps them for the way back. */
    function attention(qkv, y, shares, { T, C, H, isCausal = true }) {
      const D = C / H, S = 3 * C;
      shares.fill(0);
      y.fill(0);
      eachHead(qkv, { T, C, H }, (at, out, p) => {
        const [q, k, v] = [0, C, 2 * C].map((part) => qkv.subarray(at + part));
        const own = shares.subarray(p, p + T * T);
        product(T, T, D, q, S, 1, k, 1, S, own, T);
        softmaxRows(own, T, 1 / Math.sqrt(D), isCausal);
        product(T, D, T, own, T, 1, v, S, 1, y.subarray(out), C);
      });
    }

    /** dShares = dy v^T, from it dScores, and then dq = dScores k, dk = dScores^T q and
        dv = shares^T dy; `scores` [T, T] is scratch. */
    function attentionBackward(dy, qkv, shares, dqkv, scores, { T, C, H }) {
      const D = C / H, S = 3 * C;
      dqkv.fill(0);
      eachHead(qkv, { T, C, H }, (at, out, p) => {
        const [q, k, v] = [0, C, 2 * C].map((part) => qkv.subarray(at + part));
        const [dq, dk, dv] = [0, C, 2 * C].map((part) => dqkv.subarray(at + part));
        const own = shares.subarray(p, p + T * T), d = dy.subarray(out);
        scores.fill(0);
        product(T, T, D, d, C, 1, v, 1, S, scores, T);
        softmaxRowsBackward(scores, own, T, 1 / Math.sqrt(D));
        product(T, D, T, scores, T, 1, k, S, 1, dq, S);
        product(T, D, T, scores, 1, T, q, S, 1, dk, S);
        product(T, D, T, own, 1, T, d, C, 1, dv, S);
      });
    }

    /** Push the singular values of x [R, S] towards 1: `steps` times, with G = x x^T,
        x = a x + (b G + c G G) x (Newton-Schulz; Jordan et al., 2024, "Muon"). The shorter
        side makes G; `spare` has room for x and two of G. */
    function orthogonalize(x, R, S, spare, steps = 5) {
      const [a, b, c] = [3.4445, -4.775, 2.0315], n = Math.min(R, S), long = Math.max(R, S);
      const [short, far] = R > S ? [1, S] : [S, 1];  // steps along the sides
      const gram = spare.subarray(R * S, R * S + n * n);
      const poly = spare.subarray(R * S + n * n, R * S + 2 * n * n);
      const old = spare.subarray(0, R * S);
      blend(x, x, 1 / Math.max(Math.sqrt(dot(x, x)), 1e-7), 0);
      for (let step = 0; step < steps; step++) {
        gram.fill(0);
        poly.fill(0);
        product(n, n, long, x, short, far, x, far, short, gram, n);
        product(n, n, n, gram, n, 1, gram, n, 1, poly, n);
        blend(poly, gram, c, b);
        old.set(x);
        blend(x, x, a, 0);
        if (R > S) product(R, S, S, old, S, 1, poly, n, 1, x, S);  // poly is symmetric
        else product(R, S, R, poly, n, 1, old, S, 1, x, S);
      }
    }

    return { ...own, add, linear, linearBackward, attention, attentionBackward, orthogonalize };
  }

  const layers = compose({
    product, blend, dot, embed, embedBackward, addPositions, addPositionsBackward, layerNorm,
    layerNormBackward, rmsNorm, rmsNormBackward, activate, activateBackward, rotate,
    softmaxRows, softmaxRowsBackward, crossEntropy, adamw,
  });

  // --- model/gpt.py: the network with its way back ------------------------------------

  /** [name, shape, role, stacked] of every weight, as PyTorch names and orders them. */
  function parameters(config) {
    const { vocab_size: V, context_length: T, d_model: C, bias } = config;
    const F = config.d_ff ?? 4 * C, all = [];
    const weight = (name, shape, role = "other", stacked = 1) =>
      all.push([name, shape, role, stacked]);
    const linear = (name, I, O, hasBias, stacked) => {
      weight(`${name}.weight`, [O, I], "hidden", stacked);
      if (hasBias) weight(`${name}.bias`, [O]);
    };
    const norm = (name) => {
      if (config.norm !== "layernorm") return;
      weight(`${name}.weight`, [C]);
      weight(`${name}.bias`, [C]);
    };
    weight("token_embedding.weight", [V, C], "embedding");
    if (config.positions === "learned") weight("positions.weight", [T, C]);
    if (config.embedding_norm) norm("embedding_norm");
    for (let n = 0; n < config.n_layers; n++) {
      norm(`blocks.${n}.norm1`);
      linear(`blocks.${n}.attention.qkv`, C, 3 * C, bias && config.qkv_bias, 3);
      linear(`blocks.${n}.attention.output`, C, C, bias);
      norm(`blocks.${n}.norm2`);
      linear(`blocks.${n}.feed_forward.input`, C, F, bias);
      linear(`blocks.${n}.feed_forward.output`, F, C, bias);
    }
    norm("norm");
    if (!config.tie_head) weight("head.weight", [V, C], "head");
    return all;
  }

  const size = (shape) => shape.reduce((a, b) => a * b, 1);

  /** A GPT that learns: logits and loss of batches of B windows of T tokens, and back.
      `allocate(n)` gives an array of n zeros; the network asks for all it needs at once. */
  class Network {
    constructor(config, B, allocate, layers, { noMask = false, noPositions = false } = {}) {
      const { vocab_size: V, context_length: T, d_model: C, n_heads: H } = config;
      const N = B * T, F = config.d_ff ?? 4 * C, D = C / H;
      Object.assign(this, { config, B, T, C, H, V, N, F, D, layers, noMask, noPositions });
      this.weights = new Map();
      for (const [name, shape, role, stacked] of parameters(config)) {
        const n = size(shape);
        this.weights.set(name, {
          name, shape, role, stacked, weight: allocate(n), gradient: allocate(n),
        });
      }
      const table = (width) => allocate(N * width), norms = 2 * N;
      this.x = table(C);  // what enters the first block
      this.embedded = config.embedding_norm ? table(C) : null;
      this.embeddedStats = allocate(norms);
      this.blocks = Array.from({ length: config.n_layers }, (_, n) => ({
        name: `blocks.${n}`,
        normed1: table(C), stats1: allocate(norms), qkv: table(3 * C),
        headStats: config.qk_norm ? table(2 * H) : null,
        shares: allocate(B * H * T * T), mixed: table(C), middle: table(C),
        normed2: table(C), stats2: allocate(norms), hidden: table(F), active: table(F),
        x: table(C),  // what leaves the block
      }));
      this.normed = table(C);
      this.stats = allocate(norms);
      this.logits = table(V);
      this.losses = allocate(N);
      this.d = table(C);
      this.dSmall = table(C);
      this.dWide = table(Math.max(F, 3 * C));
      this.scores = allocate(T * T);
      this.cos = config.positions === "rotary" && !noPositions ? allocate(T * D / 2) : null;
      this.sin = this.cos && allocate(T * D / 2);
    }

    /** Fill the tables of constants. */
    prepare() {
      const half = this.D / 2;
      this.cos?.forEach((_, i) => {
        const angle = Math.floor(i / half) * 10000 ** (-2 * (i % half) / this.D);
        this.cos[i] = Math.cos(angle);
        this.sin[i] = Math.sin(angle);
      });
    }

    weight(name) {
      return this.weights.get(name)?.weight;
    }

    gradient(name) {
      return this.weights.get(name)?.gradient;
    }

    // Each of these pairs looks up the weights of its name.

    norm(name, x, y, stats) {
      if (this.config.norm === "rmsnorm") this.layers.rmsNorm(x, y, stats, this.C);
      else {
        this.layers.layerNorm(x, this.weight(`${name}.weight`), this.weight(`${name}.bias`),
          y, stats, this.C);
      }
    }

    normBackward(name, dy, x, y, stats, dx) {
      if (this.config.norm === "rmsnorm") this.layers.rmsNormBackward(dy, y, stats, dx, this.C);
      else {
        this.layers.layerNormBackward(dy, x, this.weight(`${name}.weight`), stats, dx,
          this.gradient(`${name}.weight`), this.gradient(`${name}.bias`), this.C);
      }
    }

    linear(name, x, y, I, O) {
      this.layers.linear(x, this.weight(`${name}.weight`), this.weight(`${name}.bias`), y, I, O);
    }

    linearBackward(name, dy, x, dx, I, O) {
      this.layers.linearBackward(dy, x, this.weight(`${name}.weight`), dx,
        this.gradient(`${name}.weight`), this.gradient(`${name}.bias`), I, O);
    }

    get head() {
      return this.config.tie_head ? "token_embedding" : "head";
    }

    /** The `losses` [N] of `targets` [N] (below 0: does not count) after `ids` [N], whose sum
        comes back; the gradients of the logits are those of that sum times `scale`. */
    forward(ids, targets, scale = 1) {
      const { layers, config, B, T, C, H, V, F } = this;
      const within = { step: 3 * C, width: 2 * C };  // q and k of each row of qkv
      let x = this.embedded ?? this.x;
      layers.embed(ids, this.weight("token_embedding.weight"), x, C);
      if (config.positions === "learned" && !this.noPositions) {
        layers.addPositions(x, this.weight("positions.weight"), T, C);
      }
      if (this.embedded) this.norm("embedding_norm", x, this.x, this.embeddedStats);
      x = this.x;
      for (const b of this.blocks) {
        this.norm(`${b.name}.norm1`, x, b.normed1, b.stats1);
        this.linear(`${b.name}.attention.qkv`, b.normed1, b.qkv, C, 3 * C);
        if (this.cos) layers.rotate(b.qkv, this.cos, this.sin, T, this.D, within);
        if (b.headStats) {  // after the rotation, which keeps lengths: it is all the same
          layers.rmsNorm(b.qkv, b.qkv, b.headStats, this.D, { eps: 2 ** -23, ...within });
        }
        layers.attention(b.qkv, b.mixed, b.shares, { T, C, H, isCausal: !this.noMask });
        this.linear(`${b.name}.attention.output`, b.mixed, b.middle, C, C);
        layers.add(b.middle, x);
        this.norm(`${b.name}.norm2`, b.middle, b.normed2, b.stats2);
        this.linear(`${b.name}.feed_forward.input`, b.normed2, b.hidden, C, F);
        layers.activate(config.activation, b.hidden, b.active);
        this.linear(`${b.name}.feed_forward.output`, b.active, b.x, F, C);
        layers.add(b.x, b.middle);
        x = b.x;
      }
      this.norm("norm", x, this.normed, this.stats);
      this.linear(this.head, this.normed, this.logits, C, V);
      layers.crossEntropy(this.logits, targets, this.losses, V, scale, config.logit_softcap);
      return this.losses.reduce((a, b) => a + b, 0);
    }

    /** Add the gradients of the loss of the last `forward` to those of the weights. */
    backward(ids) {
      const { layers, config, T, C, H, V, F, d, dSmall } = this;
      const dWide = (width) => this.dWide.subarray(0, this.N * width);
      const within = { step: 3 * C, width: 2 * C };
      this.linearBackward(this.head, this.logits, this.normed, dSmall, C, V);
      const last = this.blocks.at(-1).x;
      this.normBackward("norm", dSmall, last, this.normed, this.stats, d);
      for (let n = this.blocks.length - 1; n >= 0; n--) {
        const b = this.blocks[n], x = n ? this.blocks[n - 1].x : this.x;
        // d is the gradient of what leaves the block; both ways of a residual get it.
        const dHidden = dWide(F);
        this.linearBackward(`${b.name}.feed_forward.output`, d, b.active, dHidden, F, C);
        layers.activateBackward(config.activation, dHidden, b.hidden, dHidden);
        this.linearBackward(`${b.name}.feed_forward.input`, dHidden, b.normed2, dSmall, C, F);
        this.normBackward(`${b.name}.norm2`, dSmall, b.middle, b.normed2, b.stats2, dSmall);
        layers.add(d, dSmall);
        const dqkv = dWide(3 * C);
        this.linearBackward(`${b.name}.attention.output`, d, b.mixed, dSmall, C, C);
        layers.attentionBackward(dSmall, b.qkv, b.shares, dqkv, this.scores, { T, C, H });
        if (b.headStats) {
          layers.rmsNormBackward(dqkv, b.qkv, b.headStats, dqkv, this.D, within);
        }
        if (this.cos) layers.rotate(dqkv, this.cos, this.sin, T, this.D, { ...within, sign: -1 });
        this.linearBackward(`${b.name}.attention.qkv`, dqkv, b.normed1, dSmall, C, 3 * C);
        this.normBackward(`${b.name}.norm1`, dSmall, x, b.normed1, b.stats1, dSmall);
        layers.add(d, dSmall);
      }
      if (this.embedded) {
        this.normBackward("embedding_norm", d, this.embedded, this.x, this.embeddedStats, d);
      }
      if (config.positions === "learned" && !this.noPositions) {
        layers.addPositionsBackward(d, this.gradient("positions.weight"), T, C);
      }
      layers.embedBackward(ids, d, this.gradient("token_embedding.weight"), C);
    }

    /** Draw the weights as `GPT.init_weights` does; the numbers are not PyTorch's. */
    init(random) {
      const { config } = this, zero = config.init === "zero";
      const normal = () =>  // Box and Muller
        Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
      for (const { name, shape, role, weight } of this.weights.values()) {
        const isOutput = /output\.weight$/.test(name);
        if (shape.length === 1) weight.fill(name.endsWith("weight") ? 1 : 0);
        else if (zero && (isOutput || role === "head")) weight.fill(0);
        else if (zero && role === "hidden") {
          const bound = Math.sqrt(3 / shape[1]);
          for (let i = 0; i < weight.length; i++) weight[i] = bound * (2 * random() - 1);
        } else {
          const std = 0.02 / (isOutput ? Math.sqrt(2 * config.n_layers) : 1);
          for (let i = 0; i < weight.length; i++) weight[i] = std * normal();
        }
      }
    }
  }

  // --- training/optimizers.py, training/muon.py ---------------------------------------

  /** AdamW for tables and vectors, Muon for the hidden matrices if `config` says so. */
  class Optimizer {
    constructor(network, config, allocate) {
      Object.assign(this, { network, config, layers: network.layers });
      const { lr, embedding_lr, head_lr, muon_lr, weight_decay } = config;
      let spare = 0;
      for (const w of network.weights.values()) {
        const own = { embedding: embedding_lr, head: head_lr }[w.role];
        w.isMuon = w.role === "hidden" && config.optimizer === "muon";
        w.peak = w.isMuon ? muon_lr : own ?? lr;
        w.decay = w.shape.length > 1 ? weight_decay : 0;
        w.memory = w.isMuon ? { momentum: allocate(size(w.shape)) }
          : { mean: allocate(size(w.shape)), square: allocate(size(w.shape)) };
        w.average = config.average_fraction ? allocate(size(w.shape)) : null;
        if (w.isMuon) {
          const [R, S] = [w.shape[0] / w.stacked, w.shape[1]], n = Math.min(R, S);
          spare = Math.max(spare, R * S + 2 * n * n);
        }
      }
      this.spare = allocate(spare);
    }

    /** Length of all gradients together; scaled down to `grad_clip` if they are longer. */
    clip() {
      const { layers } = this, all = [...this.network.weights.values()];
      const length = Math.sqrt(all.reduce((sum, { gradient }) =>
        sum + layers.dot(gradient, gradient), 0));
      const most = this.config.grad_clip, factor = most ? most / (length + 1e-6) : 1;
      if (factor < 1) for (const { gradient } of all) layers.blend(gradient, gradient, factor, 0);
      return length;
    }

    /** Use the gradients, which are 0 afterwards, at `factor` of the peak rates; `step`
        counts from 0. */
    step(step, factor) {
      const { layers, config: c } = this;
      for (const w of this.network.weights.values()) {
        const lr = w.peak * factor;
        if (w.isMuon) this.muon(w, lr);
        else {
          layers.adamw(w.weight, w.gradient, w.memory.mean, w.memory.square,
            { lr, decay: w.decay, beta1: c.beta1, beta2: c.beta2, t: step + 1 });
        }
        w.gradient.fill(0);
        if (!w.average) continue;
        if (step === 0) w.average.set(w.weight);
        else {
          const share = Math.min(1, 1 / (c.average_fraction * (step + 1)));
          layers.blend(w.average, w.weight, 1 - share, share);
        }
      }
    }

    /** Along the momentum (Nesterov's form), made orthogonal; the gradient's place is used
        for it. A weight that stacks matrices is split into them. */
    muon({ weight, gradient, memory, shape, stacked, decay }, lr) {
      const { layers, config, spare } = this, [R, S] = [shape[0] / stacked, shape[1]];
      const kept = config.muon_momentum;
      layers.blend(memory.momentum, gradient, kept, 1 - kept);
      layers.blend(gradient, memory.momentum, 1 - kept, kept);
      for (let at = 0; at < gradient.length; at += R * S) {
        layers.orthogonalize(gradient.subarray(at, at + R * S), R, S, spare, config.muon_steps);
      }
      layers.blend(weight, gradient, 1 - lr * decay, -lr * Math.sqrt(Math.max(1, R / S)));
    }
  }

  root.tinygptBackward = {
    layers, compose, parameters, size, Network, Optimizer, ACTIVATIONS,
    source: `(${define})(globalThis);`,
  };
  if (typeof module !== "undefined" && module.exports) module.exports = root.tinygptBackward;
})(globalThis);
