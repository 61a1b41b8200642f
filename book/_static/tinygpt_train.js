/* Training in the page: from a text to a vocabulary, a plan and a run, as tinygpt/ does
   it, under the same names. It runs in a page, in a Web Worker and in Node,
   asks nothing of the network, and tells everything that is wrong with a text or a file
   in one sentence (TinyGPT.UserError).

   It needs tinygpt.js, tinygpt_look.js and tinygpt_backward.js, and uses
   tinygpt_train_simd.js where that is loaded. What it leaves out: files (see
   tinygpt_files.js), and the page itself. */
"use strict";
(function define(root) {
  const TinyGPT = root.TinyGPT ?? require("./tinygpt.js");
  const { layers, compose, parameters, size, Network, Optimizer } =
    root.tinygptBackward ?? require("./tinygpt_backward.js");
  const { sample, attentionOf, fromSnapshot } = root.tinygptLook ?? require("./tinygpt_look.js");
  const { UserError, Tokenizer, seededRandom, compilePattern, strip, Heap } = TinyGPT;

  function check(condition, sentence) {
    if (!condition) throw new UserError(sentence);
  }

  // --- training/schedule.py -----------------------------------------------------------

  /** Where a run stands, in steps; one of `minutes` goes at the pace of the clock. */
  function position(step, seconds, { steps, minutes }) {
    return minutes === null ? Math.min(step, steps) : steps * Math.min(1, seconds / (60 * minutes));
  }

  /** The share of the peak learning rate at `place`: warm-up, plateau, decay. */
  function lrFactor(place, config) {
    const { steps, warmup_steps: warmup, decay_fraction: decay } = config;
    if (place < warmup) return Math.min(1, (place + 1) / warmup);
    const progress = (place - warmup) / Math.max(1, steps - warmup);
    if (config.schedule === "constant" || progress <= 1 - decay) return 1;
    let fallen = Math.min(1, (progress - (1 - decay)) / decay);
    if (config.schedule === "cosine") fallen = (1 - Math.cos(Math.PI * fallen)) / 2;
    return 1 - fallen * (1 - config.final_lr_fraction);
  }

  // --- config.py, presets.py ----------------------------------------------------------

  const MODEL = {
    vocab_size: 4096, context_length: 64, d_model: 128, n_heads: 4, n_layers: 3, d_ff: null,
    dropout: 0, positions: "learned", norm: "layernorm", norm_placement: "pre",
    activation: "gelu", bias: true, qkv_bias: true, head_bias: false, qk_norm: false,
    tie_head: true, logit_softcap: 0, embedding_norm: false, init: "gpt2",
  };
  const TRAIN = {
    steps: 300, minutes: null, batch_size: 16, optimizer: "adamw", lr: 1e-3,
    embedding_lr: null, head_lr: null, muon_lr: 0.02, muon_momentum: 0.95, muon_steps: 5,
    beta1: 0.9, beta2: 0.95, weight_decay: 0, warmup_steps: 0, schedule: "cosine",
    decay_fraction: 1, final_lr_fraction: 0, average_fraction: 0, grad_clip: 0,
    eval_interval: 50, eval_windows: 64, last_windows: null, seed: 1337,
  };

  /** What a plan begins with: the course's own recipe, and GPT-2's shape. */
  const RECIPES = {
    tiny: {
      model: {
        ...MODEL, positions: "rotary", norm: "rmsnorm", activation: "relu2", bias: false,
        qkv_bias: false, qk_norm: true, tie_head: false, logit_softcap: 15,
        embedding_norm: true, init: "zero",
      },
      train: {
        ...TRAIN, steps: 180, optimizer: "muon", lr: 0.01, embedding_lr: 0.02,
        head_lr: 0.015, muon_lr: 0.03, muon_momentum: 0.8, muon_steps: 3, beta1: 0.6,
        beta2: 0.98, schedule: "linear", eval_interval: 45, eval_windows: 16,
        last_windows: 180,
      },
    },
    story: {
      model: { ...MODEL, context_length: 128, n_layers: 4 },
      train: {
        ...TRAIN, steps: 2500, optimizer: "muon", lr: 2e-3, embedding_lr: 0.012, beta1: 0.8,
        weight_decay: 0.5, warmup_steps: 20, schedule: "linear", final_lr_fraction: 0.1,
        average_fraction: 0.2, eval_interval: 250, eval_windows: 100,
      },
    },
  };

  // --- training/plan.py ---------------------------------------------------------------

  // d_model, n_layers, n_heads, context_length; the smallest first.
  const LADDER = [
    [64, 2, 2, 64], [128, 3, 4, 128], [192, 4, 6, 128], [256, 5, 8, 128],
    [384, 6, 12, 128], [512, 8, 16, 256],
  ];
  const LADDER_NAMES = ["d_model", "n_layers", "n_heads", "context_length"];
  const TOKENS_PER_STEP = 1024, TOKENS_PER_WEIGHT = 0.3, MOST_EPOCHS = 16;
  const LEAST_STEPS = 200, LONG_RUN = 300, EVALUATED = 0.03, MAX_STEPS = 10_000_000;
  const DECAY_PER_EPOCH = 0.12, MOST_DECAY = 60_000;

  /** As Python's `round`: of two whole numbers equally near, the even one. */
  function round(x) {
    const nearest = Math.round(x);
    return nearest - x === 0.5 && nearest % 2 ? nearest - 1 : nearest;
  }

  /** Weights that every token is multiplied with: those of the blocks and the head. */
  function nWeights({ d_model: C, d_ff, n_layers, vocab_size: V }) {
    return n_layers * C * (4 * C + 2 * (d_ff ?? 4 * C)) + V * C;
  }

  /** Floating-point operations of a training step for each token (see plan.py). */
  function flopsPerToken(model) {
    return 6 * (nWeights(model) + model.n_layers * model.context_length * model.d_model);
  }

  /** The models to choose from, the smallest first, with the `sizes` that are given. */
  function ladder(model, vocabSize, sizes = {}) {
    const kept = new Set(Object.keys(sizes));
    if (kept.has("d_model") || kept.has("n_heads")) kept.add("d_model").add("n_heads");
    return LADDER.map((rung) => {
      const made = { ...model, ...sizes, vocab_size: vocabSize };
      LADDER_NAMES.forEach((name, i) => { if (!kept.has(name)) made[name] = rung[i]; });
      return made;
    });
  }

  /** Model and training for a text of `tokens` training tokens and some minutes, at
      `speed` floating-point operations a second: `plan` of plan.py, number by number. */
  function planFor({ tokens, vocabSize, minutes, speed, model, train, sizes = {} }) {
    const most = Math.max(MOST_EPOCHS * tokens, LEAST_STEPS * TOKENS_PER_STEP);
    const rungs = ladder(model, vocabSize, sizes);
    const read = rungs.map((m) => Math.min(most, 60 * minutes * speed / flopsPerToken(m)));
    const enough = rungs.filter((m, i) => read[i] >= TOKENS_PER_WEIGHT * nWeights(m));
    const chosen = enough.at(-1) ?? rungs[0], perSecond = speed / flopsPerToken(chosen);
    const used = Math.min(minutes, most / perSecond / 60);
    const epochs = 60 * used * perSecond / tokens, T = chosen.context_length;
    const batch = Math.max(1, Math.floor(TOKENS_PER_STEP / T)), perStep = batch * T;
    const steps = Math.min(MAX_STEPS, Math.max(1, round(epochs * tokens / perStep)));
    const interval = Math.max(10, Math.floor(steps / 8));
    const half = round(EVALUATED / 2 * 3 * steps * perStep / T);
    const planned = {
      batch_size: batch,
      steps,
      minutes: used === minutes ? minutes : null,
      weight_decay: Math.min(DECAY_PER_EPOCH * epochs, MOST_DECAY / tokens, 1),
      eval_interval: interval,
      eval_windows:
        Math.min(64, Math.max(16, Math.floor(half / (Math.floor(steps / interval) + 1)))),
      last_windows: Math.max(64, half),
      ...(steps >= LONG_RUN && {
        muon_lr: 0.02, muon_momentum: 0.95, beta1: 0.8, final_lr_fraction: 0.2,
        average_fraction: 0.2,
      }),
    };
    return { model: chosen, train: { ...train, ...planned }, tokens, epochs, minutes, used };
  }

  // --- text/bpe_training.py -----------------------------------------------------------

  const END_OF_TEXT = "<|endoftext|>";
  const GPT2_PATTERN =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  const IDS = 2 ** 13, PAIRS = IDS * IDS;  // a pair (a, b) of ids is the number a * IDS + b
  const MOST = 2 ** 24;  // times that a pair may occur

  /** Replace each pair (a, b) in a word by `id`, from left to right. */
  function mergePair(word, a, b, id) {
    const merged = [];
    for (let i = 0; i < word.length; i++) {
      const found = word[i] === a && word[i + 1] === b;
      merged.push(found ? id : word[i]);
      if (found) i++;
    }
    return merged;
  }

  /** The tokens learned from `documents`, as characters U+0000 to U+00FF: 256 bytes, then
      merges, `size` in all or fewer if no pair is left. Each step merges the pair of
      neighbours that occurs most often within words. */
  function learnMerges(documents, size, progress) {
    check(size <= IDS, `A vocabulary has ${IDS} entries at most, not ${size}: learn a smaller one.`);
    const times = new Map(), pattern = compilePattern(GPT2_PATTERN);
    for (const document of documents) {
      for (const [word] of document.matchAll(pattern)) times.set(word, (times.get(word) ?? 0) + 1);
    }
    const words = [], often = [];
    for (const [word, n] of times) {
      words.push([...new TextEncoder().encode(word)]);
      often.push(n);
    }
    const vocabulary = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte));
    const counts = new Map(), where = new Map();  // words that have a pair
    const count = (w, sign, changed) => {
      for (let i = 1; i < words[w].length; i++) {
        const pair = words[w][i - 1] * IDS + words[w][i];
        counts.set(pair, (counts.get(pair) ?? 0) + sign * often[w]);
        changed?.add(pair);
        if (sign < 0) continue;
        if (!where.has(pair)) where.set(pair, new Set());
        where.get(pair).add(w);
      }
    };
    for (let w = 0; w < words.length; w++) count(w, 1);
    const queue = new Heap();  // the most frequent first, of equals the lowest ids
    const add = (pair, n) => queue.push((MOST - n) * PAIRS + pair);
    for (const [pair, n] of counts) add(pair, n);
    while (queue.items.length && vocabulary.length < size) {
      const item = queue.pop(), best = item % PAIRS;
      if (counts.get(best) !== MOST - (item - best) / PAIRS) continue;  // counted again since
      const a = Math.floor(best / IDS), b = best % IDS, changed = new Set();
      const found = where.get(best);
      where.delete(best);
      for (const w of found) {
        count(w, -1, changed);
        words[w] = mergePair(words[w], a, b, vocabulary.length);
        count(w, 1, changed);
      }
      for (const pair of changed) {
        const now = counts.get(pair);
        if (now) add(pair, now);
        else counts.delete(pair);
      }
      vocabulary.push(vocabulary[a] + vocabulary[b]);
      if (vocabulary.length % 256 === 0) progress?.(vocabulary.length / size);
    }
    return vocabulary;
  }

  /** How many entries suit a training part of `bytes` bytes (see bpe_training.py). */
  function autoVocabSize(bytes) {
    if (bytes >= 10_000_000) return 8192;
    return Math.min(4096, Math.max(512, 2 ** round(Math.log2(Math.max(1, bytes / 100)))));
  }

  const bytesOf = (documents) =>
    documents.reduce((sum, document) => sum + new TextEncoder().encode(document).length, 0);

  /** The tokenizer that `--tokenizer auto` learns from the training documents. */
  function learnVocabulary(documents, { vocabSize, progress } = {}) {
    const wanted = vocabSize ?? autoVocabSize(bytesOf(documents));
    const vocabulary = learnMerges(documents, wanted - 1, progress);
    return new Tokenizer({
      name: "auto",
      pattern: GPT2_PATTERN,
      vocabulary,
      special_tokens: { [END_OF_TEXT]: vocabulary.length },
    });
  }

  // --- text/corpora.py, text/documents.py ---------------------------------------------

  const SMALLEST = 20_000, LARGEST = 5_000_000;  // bytes of text
  const LONG = 0.05;  // of the text: a document so long is cut, not left on one side

  /** The text of a string or of a file's bytes, if one can learn from it. */
  function readText(given) {
    const bytes = typeof given === "string" ? new TextEncoder().encode(given)
      : new Uint8Array(given.buffer ?? given, given.byteOffset ?? 0, given.byteLength);
    check(bytes.length > 0, "The text is empty: give one of at least 20 KB.");
    check(bytes.length <= LARGEST, `The text has ${(bytes.length / 1e6).toFixed(1)} MB, and a ` +
      "page learns from 5 MB at most: give a part of it.");
    let text = "";
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);  // without its mark
    } catch (error) {
      check(!(error instanceof TypeError), "This is not UTF-8 text: save it as UTF-8, or " +
        "give another file.");
      throw error;
    }
    check(!text.includes("\0"), "This is no text, for it has a zero byte: give a text file.");
    check(strip(text) !== "", "The text is only white space: give one with words in it.");
    const size = `${bytes.length.toLocaleString("en")} byte${bytes.length === 1 ? "" : "s"}`;
    check(bytes.length >= SMALLEST, `The text has ${size}, and a model needs at least 20,000 ` +
      "to learn from: give a longer one.");
    return text;
  }

  /** The documents of a text: a line <|endoftext|> ends one and belongs to none. */
  function documentsOf(text) {
    const end = /(?<![^\n])<\|endoftext\|>[ \t]*(?:\r?\n|$)/g;
    return text.split(end).filter((document) => strip(document) !== "");
  }

  const charactersOf = (text) => {  // as Python counts them
    let n = text.length;
    for (let i = 0; i < text.length; i++) if ((text.codePointAt(i) ?? 0) > 0xffff) n--;
    return n;
  };

  /** The documents to train on and those to validate on, a tenth of the characters. The
      document of the cut trains as a whole; only a very long one is cut itself. */
  function splitDocuments(documents, trainFraction = 0.9) {
    const lengths = documents.map(charactersOf), ends = [];
    lengths.forEach((length, i) => ends.push((ends[i - 1] ?? 0) + length));
    const all = ends.at(-1), cut = Math.floor(trainFraction * all);
    const i = ends.findIndex((end) => end > cut), inside = cut - (ends[i] - lengths[i]);
    let train, val;
    if (lengths[i] > LONG * all) {
      const characters = Array.from(documents[i]);
      train = [...documents.slice(0, i), characters.slice(0, inside).join("")];
      val = [characters.slice(inside).join(""), ...documents.slice(i + 1)];
    } else {
      const last = documents.length - 1;  // which validates in any case
      train = documents.slice(0, Math.min(i + 1, last));
      val = documents.slice(i + 1);
      if (!val.length) val = [documents[last]];
    }
    return [train.filter((part) => part), val];
  }

  /** The ids of all documents, each ended by <|endoftext|> if they are `separate`. */
  function encodeDocuments(documents, tokenizer, separate, progress) {
    const ids = [];
    documents.forEach((document, n) => {
      for (const id of tokenizer.encode(document)) ids.push(id);
      if (separate) ids.push(tokenizer.endOfText);
      if (n % 256 === 255) progress?.(n / documents.length);
    });
    return Int32Array.from(ids);
  }

  /** A text as tokens to train and to validate on. Without a tokenizer one is learned. */
  function prepare(text, { vocabSize, tokenizer, progress } = {}) {
    const documents = documentsOf(text), [trainTexts, valTexts] = splitDocuments(documents);
    const separate = trainTexts.length > 1 || valTexts.length > 1;
    const told = (what) => progress && ((share) => progress(share, what));
    tokenizer ??= learnVocabulary(trainTexts, { vocabSize, progress: told("vocabulary") });
    const train = encodeDocuments(trainTexts, tokenizer, separate, told("tokens"));
    const val = encodeDocuments(valTexts, tokenizer, separate, told("tokens"));
    const isCut = !documents.includes(valTexts[0]);  // `val` begins within a document
    const data = { text, tokenizer, train, val, separate, isCut };
    requireLongEnough(data, LADDER[0][3]);
    return { ...data, bigram: bigram(data) };
  }

  function requireLongEnough({ train, val }, T) {
    const shorter = Math.min(train.length, val.length);
    check(shorter > T, `The text is too short: of its ${train.length + val.length} tokens ` +
      `${train.length} train and ${val.length} validate, but each part needs ${T + 1}: give a ` +
      "longer or more varied text.");
  }

  // --- training/evaluation.py ---------------------------------------------------------

  /** Bytes of text that each id stands for; 0 for special tokens. */
  function byteLengths(tokenizer) {
    const special = new Set(tokenizer.specialTokens.values());
    return tokenizer.bytes.map((token, id) => (special.has(id) ? 0 : token?.length ?? 0));
  }

  /** Bits per byte on the validation split when each token is guessed from the one before
      it, by counting pairs (see `bigram` in evaluation.py). */
  function bigram({ train, val, tokenizer }, most = 1_000_000) {
    const V = tokenizer.vocabSize, known = train.subarray(-most);
    const alone = new Float64Array(V).fill(1), seen = new Float64Array(V);
    const followers = new Float64Array(V), pairs = new Map();
    for (const id of known) alone[id]++;
    for (let i = 1; i < known.length; i++) {
      const pair = known[i - 1] * V + known[i], n = pairs.get(pair) ?? 0;
      if (n === 0) followers[known[i - 1]]++;
      pairs.set(pair, n + 1);
      seen[known[i - 1]]++;
    }
    let nats = 0, bytes = tokenizer.bytes[val[0]].length;
    for (let i = 1; i < val.length; i++) {
      const [a, b] = [val[i - 1], val[i]], single = alone[b] / (known.length + V);
      nats -= Math.log(seen[a] === 0 ? single
        : ((pairs.get(a * V + b) ?? 0) + followers[a] * single) / (seen[a] + followers[a]));
      bytes += tokenizer.bytes[b].length;
    }
    return nats / (val.length - 1) * val.length / Math.LN2 / bytes;
  }

  // --- text/dataset.py ----------------------------------------------------------------

  /** Windows drawn without replacement; the batch is a pure function of seed and step. An
      epoch takes all windows, T apart, in a random order and from a random offset on. The
      random numbers are not NumPy's. */
  class Batches {
    constructor(tokens, T, B, seed) {
      Object.assign(this, { tokens, T, B, seed, epoch: -1 });
      this.nWindows = Math.max(1, Math.floor(tokens.length / T) - 1);
    }

    startsOf(epoch) {
      if (epoch === this.epoch) return this.starts;
      const { nWindows, T, tokens } = this;
      const random = seededRandom(this.seed + 1_000_003 * epoch);
      const order = Uint32Array.from({ length: nWindows }, (_, i) => i);
      for (let i = nWindows - 1; i > 0; i--) {  // Fisher and Yates
        const j = Math.floor((i + 1) * random());
        [order[i], order[j]] = [order[j], order[i]];
      }
      const offset = Math.floor(Math.min(T, tokens.length - nWindows * T) * random());
      this.starts = order.map((window) => window * T + offset);
      this.epoch = epoch;
      return this.starts;
    }

    /** ids and targets [B T] of a step; each target is the id after its input. */
    at(step) {
      const { T, B, tokens, nWindows } = this;
      const ids = new Int32Array(B * T), targets = new Int32Array(B * T);
      for (let window = 0; window < B; window++) {
        const n = step * B + window;
        const start = this.startsOf(Math.floor(n / nWindows))[n % nWindows];
        ids.set(tokens.subarray(start, start + T), window * T);
        targets.set(tokens.subarray(start + 1, start + T + 1), window * T);
      }
      return { ids, targets };
    }
  }

  // --- training/trainer.py, training/dial.py ------------------------------------------

  const MOST_MEMORY = 2 ** 30;  // bytes; a phone's page gets hardly more
  const ASLEEP = 5;  // seconds that a step may take, whatever the others took
  const INTACT = { rate: 1, noMask: false, noPositions: false, unshifted: false };

  /** Network and optimizer of a plan on the memory that `allocate` gives. */
  function assemble({ model, train }, allocate, layers, breakIt) {
    const network = new Network(model, train.batch_size, allocate, layers, breakIt);
    return { network, optimizer: new Optimizer(network, train, allocate) };
  }

  /** Bytes that training takes, without taking them. */
  function memoryOf(plan) {
    let bytes = 0;
    const count = (n) => {
      bytes += 16 * Math.ceil(n / 4);
      return new Float32Array(0);
    };
    assemble(plan, count, layers);
    return bytes;
  }

  function requireMemory(plan) {
    const bytes = memoryOf(plan);
    check(bytes <= MOST_MEMORY, `This training needs ${bytes >> 20} MB, more than the ` +
      `${MOST_MEMORY >> 20} MB that a page may take: choose smaller sizes.`);
    return bytes;
  }

  /** The loop of a run: batches, loss, gradients, step; evaluations; the best weights.
      `breakIt` breaks it on purpose; `batches` gives { ids, targets } at every step. */
  class Trainer {
    constructor(data, plan, { breakIt, seed = plan.train.seed, simd = true, batches } = {}) {
      const bytes = requireMemory(plan);
      requireLongEnough(data, plan.model.context_length);
      Object.assign(this, { data, plan, seed, config: plan.train });
      this.breakIt = { ...INTACT, ...breakIt };
      const fast = simd ? root.tinygptTrainSimd?.kernels(bytes, layers, compose) : null;
      const { allocate, layers: used } = fast ?? { allocate: (n) => new Float32Array(n), layers };
      Object.assign(this, assemble(plan, allocate, used, this.breakIt));
      this.isFast = Boolean(fast);
      this.network.prepare();
      this.network.init(seededRandom(seed));
      const { T, B } = this.network;
      this.batches = batches ?? new Batches(data.train, T, B, seed);
      this.lengths = byteLengths(data.tokenizer);
      Object.assign(this, { steps: 0, seconds: 0, tokens: 0, failed: false, best: null });
      this.recent = [];  // tokens and seconds of the last steps
    }

    get position() {
      return position(this.steps, this.seconds, this.config);
    }

    get isOver() {
      return this.failed || this.position >= this.config.steps;
    }

    get weights() {
      return [...this.network.weights.values()];
    }

    /** One step on the next batch; `loss` is the mean, in nats, before it. */
    step() {
      const begun = performance.now(), { network } = this;
      const { ids, targets } = this.batches.at(this.steps);
      const rate = lrFactor(this.position, this.config) * this.breakIt.rate;
      const wanted = this.breakIt.unshifted ? ids : targets;
      const loss = network.forward(ids, wanted, 1 / ids.length) / ids.length;
      this.requireFinite(loss, "training");
      network.backward(ids);
      const gradientNorm = this.optimizer.clip();
      this.optimizer.step(this.steps, rate);
      this.steps += 1;
      this.tokens += ids.length;
      const spent = this.addTime(begun, this.recent);
      this.recent = [...this.recent.slice(-19), { tokens: ids.length, seconds: spent }];
      return { loss, rate, gradientNorm, ...this.progress() };
    }

    /** Count the time since `begun`. A step many times as long as the `recent` ones has
        slept with its computer or its tab, and counts as one of them. */
    addTime(begun, recent = []) {
      const usual = recent.reduce((sum, { seconds }) => sum + seconds, 0) / recent.length;
      let spent = (performance.now() - begun) / 1000;
      if (spent > Math.max(ASLEEP, 20 * usual)) spent = usual;
      this.seconds += spent;
      return spent;
    }

    /** Where the run stands, and how fast. */
    progress() {
      const sum = (name) => this.recent.reduce((total, step) => total + step[name], 0);
      const place = this.position, { steps } = this.config;
      return {
        step: this.steps,
        tokens: this.tokens,
        seconds: this.seconds,
        position: place / steps,
        tokensPerSecond: sum("tokens") / Math.max(sum("seconds"), 1e-9),
        secondsLeft: place ? this.seconds * (steps / place - 1) : 60 * this.plan.used,
      };
    }

    requireFinite(loss, which) {
      this.failed = !Number.isFinite(loss);
      check(!this.failed, `The ${which} loss is no number any more at step ${this.steps}: train ` +
        "with a smaller learning rate.");
    }

    /** Call `act` with the running average of the weights in their place. */
    withAverage(act) {
      const exchange = () => {
        if (!this.config.average_fraction || !this.steps) return;
        for (const { weight, average } of this.weights) {
          const kept = weight.slice();
          weight.set(average);
          average.set(kept);
        }
      };
      exchange();
      try {
        return act();
      } finally {
        exchange();
      }
    }

    /** The loss on `windows` of the validation split, spread evenly, or on "all" of it, of
        the averaged weights; the best so far are kept. Special tokens count for the loss,
        but stand for no byte. */
    evaluate({ windows = this.config.eval_windows } = {}) {
      const begun = performance.now(), { network, lengths, data: { val } } = this;
      const { T, B, N, losses } = network, last = val.length - 1;
      const isWhole = windows === "all" || windows * T >= last;
      const n = isWhole ? Math.ceil(last / T) : windows;
      const start = (i) => (isWhole ? i * T : Math.floor(i * (last - T) / Math.max(1, n - 1)));
      let nats = 0, textNats = 0, tokens = 0, bytes = 0;
      this.withAverage(() => {
        for (let first = 0; first < n; first += B) {
          const ids = new Int32Array(N), targets = new Int32Array(N).fill(-1);
          for (let i = first; i < Math.min(n, first + B); i++) {
            const from = start(i), to = Math.min(from + T, last), at = (i - first) * T;
            const shift = this.breakIt.unshifted ? 0 : 1;
            ids.set(val.subarray(from, to), at);
            targets.set(val.subarray(from + shift, to + shift), at);
          }
          nats += network.forward(ids, targets);
          targets.forEach((id, i) => {
            if (id < 0) return;
            tokens += 1;
            bytes += lengths[id];
            if (lengths[id] > 0) textNats += losses[i];
          });
        }
      });
      const loss = nats / tokens;
      this.requireFinite(loss, "validation");
      const isBest = !this.best || loss < this.best.loss;
      const bitsPerByte = textNats / Math.LN2 / bytes, { steps } = this;
      if (isBest) {
        const kept = this.weights.map((w) => [w.name, this.trained(w).slice()]);
        this.best = { step: steps, loss, bitsPerByte, weights: new Map(kept) };
      }
      this.addTime(begun);
      return { step: steps, loss, bitsPerByte, tokens, isWhole, isBest };
    }

    /** The weight as it is used: averaged, if there is an average. */
    trained({ weight, average }) {
      return average && this.steps ? average : weight;
    }

    /** A model of tinygpt.js on these weights as they are from moment to moment, or, with
        `best`, on the best so far. */
    model({ best = false } = {}) {
      const all = this.network.weights, { breakIt } = this;
      const model = new TinyGPT.GPT(this.plan.model, (name, ...shape) => {
        if (breakIt.noPositions && name === "positions.weight") {
          return new Float32Array(size(shape));
        }
        return (best && this.best?.weights.get(name)) || this.trained(all.get(name));
      });
      if (breakIt.noPositions) model.rotary = null;
      return model;
    }

    /** What the first words of the validation text, or `prompt`, go on with. */
    sample({ prompt = opening(this.data), n = 60, seed = 7, ...options } = {}) {
      return sample(this.model(), this.data.tokenizer, { prompt, n, seed, ...options });
    }

    /** Who attends to whom in `prompt`: shares [L, H, T, T], or [T, T] of one head. */
    attention({ prompt = opening(this.data, 24), layer, head } = {}) {
      return attentionOf(this.model(), this.data.tokenizer,
        { prompt, layer, head, isCausal: !this.breakIt.noMask });
    }

    /** All that is needed to go on later: plain objects and arrays (see `resume`). */
    state() {
      const tensors = {};
      for (const { name, weight, average, memory } of this.weights) {
        for (const [slot, table] of Object.entries({ weight, ...memory, average })) {
          if (table) tensors[`${name} ${slot}`] = table.slice();
        }
      }
      const { plan, seed, breakIt, steps, seconds, tokens, best, data } = this;
      return {
        format: "tinygpt page run 1", plan, seed, breakIt, steps, seconds, tokens, best,
        tensors, text: data.text, tokenizer: describe(data.tokenizer),
      };
    }

    /** A state in 8 bits (see `snapshotOf`). */
    snapshot() {
      return { step: this.steps, ...snapshotOf(this.plan.model, (name) =>
        this.trained(this.network.weights.get(name))) };
    }
  }

  /** A trainer that goes on where `state` was taken. */
  function resume(state, { simd = true, progress } = {}) {
    check(state?.format === "tinygpt page run 1",
      "What was kept is no run of this page: start anew.");
    const { plan, seed, breakIt, steps, seconds, tokens, best, tensors, text } = state;
    const data = prepare(text, { tokenizer: new Tokenizer(state.tokenizer), progress });
    const trainer = new Trainer(data, plan, { breakIt, seed, simd });
    for (const { name, weight, average, memory } of trainer.weights) {
      for (const [slot, table] of Object.entries({ weight, ...memory, average })) {
        table?.set(tensors[`${name} ${slot}`]);
      }
    }
    return Object.assign(trainer, { steps, seconds, tokens, best });
  }

  /** Floating-point operations a second in steps of a small model: of 256 tokens forward
      and back, again and again for `seconds`, and of its optimizer once, and from both
      what a step of 1,024 tokens takes. */
  function measureSpeed(data, { seconds = 1, recipe = "tiny", simd = true } = {}) {
    const { model, train } = RECIPES[recipe];
    const kept = { context_length: model.context_length };
    const small = ladder(model, data.tokenizer.vocabSize, kept)[1];
    const batch_size = Math.ceil(256 / small.context_length);
    const trainer = new Trainer(data, { model: small, train: { ...train, batch_size } }, { simd });
    const { network, optimizer } = trainer, { ids, targets } = trainer.batches.at(0);
    const time = (act) => {
      const begun = performance.now();
      act();
      return (performance.now() - begun) / 1000;
    };
    const there = () => time(() => {
      network.forward(ids, targets, 1 / ids.length);
      network.backward(ids);
    });
    there();  // the first one compiles
    let spent = 0, n = 0;
    for (; n === 0 || spent < seconds; n++) spent += there();
    const perStep = TOKENS_PER_STEP / ids.length * spent / n + time(() => optimizer.step(0, 1));
    return TOKENS_PER_STEP / perStep * flopsPerToken(small);
  }

  /** The plan for `data`: `planFor` with what the text and the recipe say. */
  function plan(data, { minutes = 1, speed, recipe = "tiny", sizes = {}, steps } = {}) {
    check(minutes > 0 && minutes <= 60, `Training takes up to 60 minutes here, not ${minutes}.`);
    const { model, train } = RECIPES[recipe], { tokenizer } = data;
    const made = planFor({
      tokens: data.train.length, vocabSize: tokenizer.vocabSize,
      minutes, speed, model, train, sizes,
    });
    const { d_model: C, n_heads: H } = made.model;
    check(C % H === 0, `${C} numbers do not divide into ${H} heads: choose sizes that do.`);
    check(made.model.positions !== "rotary" || C / H % 2 === 0,
      `Rotary positions need an even number a head, not ${C / H}: choose other sizes.`);
    if (steps) {
      Object.assign(made.train, { steps, minutes: null, eval_interval: Math.max(10, steps >> 3) });
    }
    made.train.warmup_steps = Math.min(made.train.warmup_steps, made.train.steps);
    requireLongEnough(data, made.model.context_length);
    const all = parameters(made.model).reduce((sum, [, shape]) => sum + size(shape), 0);
    return { ...made, parameters: all, bytes: requireMemory(made) };
  }

  // --- What is shown of a run ---------------------------------------------------------

  /** The first words of the validation text, at most 16 tokens. Where it begins within a
      document they are those of the next line or sentence, or at least of a whole word. */
  function opening({ val, tokenizer, isCut }, most = 16) {
    const [text] = tokenizer.decode(val.subarray(0, 500)).split(END_OF_TEXT);
    const starts = [/(?:\n|[.!?] )\s*(?=\S)/, /\s+(?=\S)/].map((start) => start.exec(text));
    const start = isCut ? starts.find(Boolean) : null;
    const rest = start ? text.slice(start.index + start[0].length) : text;
    const words = most > 16 ? rest.slice(0, 100)
      : /\S+(?: \S+)?/.exec(rest)?.[0].slice(0, 40) ?? "";
    return tokenizer.decode(tokenizer.encode(words).slice(0, most)) || "\n";
  }

  /** Weights in 8 bits: of each row whole numbers from -127 to 127 and the size of one. */
  function snapshotOf(config, weightOf) {
    const all = parameters(config), rows = all.map(([, shape]) => (shape[1] ? shape[0] : 1));
    const values = new Int8Array(all.reduce((sum, [, shape]) => sum + size(shape), 0));
    const scales = new Float32Array(rows.reduce((a, b) => a + b, 0));
    let at = 0, r = 0;
    all.forEach(([name, shape], n) => {
      const weight = weightOf(name), width = size(shape) / rows[n];
      for (let row = 0; row < weight.length; row += width, r++) {
        let largest = 0;
        for (let i = 0; i < width; i++) largest = Math.max(largest, Math.abs(weight[row + i]));
        scales[r] = largest / 127;
        for (let i = 0; i < width; i++) {
          values[at++] = Math.round(weight[row + i] / (scales[r] || 1));
        }
      }
    });
    return { config, values, scales };
  }

  // --- Names of weights, and what a tokenizer is made of ------------------------------

  const camel = (word) => word.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

  /** PyTorch's name of a weight -> the table of a model of tinygpt.js. */
  function namedWeights(model) {
    return (name) => (name === "positions.weight" ? model.positions.table
      : name.split(".").map(camel).reduce((part, key) => part[key], model));
  }

  /** What `new Tokenizer` takes, as model.js holds it. */
  function describe({ name, pattern, bytes, specialTokens }) {
    const special = new Set(specialTokens.values()), vocabulary = [];
    bytes.forEach((token, id) => { if (!special.has(id)) vocabulary[id] = token; });
    return {
      name, pattern, vocabulary: Array.from(vocabulary, (token) => token ?? null),
      special_tokens: Object.fromEntries(specialTokens),
    };
  }

  // ------------------------------------------------------------------------------------

  const TinyGPTTrain = {
    layers, compose, parameters, Network, Optimizer, position, lrFactor, RECIPES, LADDER,
    MODEL, TRAIN, GPT2_PATTERN, END_OF_TEXT, MOST_MEMORY, planFor, plan, flopsPerToken,
    learnMerges, learnVocabulary, autoVocabSize, readText, documentsOf, splitDocuments,
    prepare, bigram, Batches, Trainer, resume, measureSpeed, memoryOf, opening,
    sample, attentionOf, snapshotOf, fromSnapshot, describe, namedWeights, check, round,
    createTrainer: (...given) => new Trainer(...given),
    source: `(${define})(globalThis);`,
  };
  root.TinyGPTTrain = TinyGPTTrain;
  if (typeof module !== "undefined" && module.exports) module.exports = TinyGPTTrain;
})(globalThis);
