/* Around the model of tinygpt.js: the weight file that `tinygpt export --format web` writes,
   and a conversation with a fine-tuned model; it adds its functions to TinyGPT. What it
   leaves out: any other format (see tinygpt_files.js). */
"use strict";
(function define(root) {
  const TinyGPT = root.TinyGPT ?? require("./tinygpt.js");
  const { UserError, Tokenizer, GPT, generate, streamText, SPACE, strip } = TinyGPT;

  function check(condition, sentence) {
    if (!condition) throw new UserError(sentence);
  }

  // --- formats/web.py: the weight file ----------------------------------------------

  const HALVES = "tinygpt web 2", BYTES = "tinygpt web 3";  // the newer one
  const LEVELS = 251;  // of a whole number; two of them share a character
  const START = "globalThis.tinygptModel = ";
  const LARGEST = 2 ** 27;  // bytes; more would keep a phone busy for minutes
  const AGAIN = "export it again with tinygpt export --format web";
  const SIZES = ["vocab_size", "context_length", "d_model", "n_heads", "n_layers"];
  const CHOICES = {
    positions: ["learned", "sinusoidal", "rotary"],
    norm: ["layernorm", "rmsnorm"],
    norm_placement: ["pre", "post"],
    activation: ["relu", "gelu", "relu2", "swiglu"],
  };

  /** The number behind every character: a float16 turned by one bit, so that the sign
      comes last, with bit 13 flipped. Infinities and nan would be lone surrogates. */
  function makeFloats() {
    const floats = new Float32Array(1 << 16);
    for (let character = 0; character < 1 << 16; character++) {
      const turned = character ^ 0x2000, sign = turned & 1 ? -1 : 1;
      const exponent = turned >> 11, fraction = ((turned >> 1) & 0x3ff) / 1024;
      floats[character] = exponent === 31 ? NaN
        : sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
    }
    return floats;
  }

  /** Fill `tensor` with whole numbers, two a character from `at` on, times their row's scale;
      the whole numbers come back. */
  function readRows(tensor, columns, characters, at, scales) {
    const zero = LEVELS >> 1, wholes = new Int8Array(tensor.length + 1);
    for (let i = 0; i < tensor.length; i += 2) {
      const code = characters.charCodeAt(at + (i >> 1));
      const pair = code < 0xd800 ? code : code - 0x800, first = pair / LEVELS | 0;
      if (first >= LEVELS || (code >= 0xd800 && code < 0xe000)) {
        tensor.fill(NaN);
        return wholes;
      }
      wholes[i] = first - zero;
      wholes[i + 1] = pair - first * LEVELS - zero;
    }
    for (let row = 0; row < tensor.length; row += columns) {
      const scale = scales[row / columns];
      for (let i = row; i < row + columns; i++) tensor[i] = wholes[i] * scale;
    }
    return wholes;
  }

  /** The whole numbers and the words in a file's config; a damaged one is refused. */
  function checkConfig(config) {
    for (const name of [...SIZES, ...(config.d_ff === null ? [] : ["d_ff"])]) {
      check(Number.isInteger(config[name]) && config[name] >= 1 && config[name] < LARGEST,
        `The model file has ${name} = ${config[name]}: ${AGAIN}.`);
    }
    for (const [name, known] of Object.entries(CHOICES)) {
      check(known.includes(config[name]),
        `The model file has ${name} = ${config[name]}, which this page does not know: ${AGAIN}.`);
    }
    check(config.d_model % config.n_heads === 0,
      `The model file has ${config.n_heads} heads for ${config.d_model} numbers: ${AGAIN}.`);
    const cached = 2 * config.n_layers * config.context_length * config.d_model;
    check(4 * cached <= LARGEST, "The model's context is too long for a page: train one with " +
      "a shorter context_length.");
  }

  /** Model and tokenizer from what a weight file put into `globalThis.tinygptModel`. */
  function buildModel(file) {
    check([HALVES, BYTES].includes(file?.format) && typeof file.weights === "string",
      `This is no model file of the format "${BYTES}" or "${HALVES}": ${AGAIN}.`);
    const { config, tokenizer, tensors, weights } = file;
    const { pattern, vocabulary, special_tokens: special } = tokenizer ?? {};
    check(config && special && typeof pattern === "string" &&
      Array.isArray(tensors) && tensors.every((tensor) => Array.isArray(tensor?.[1])) &&
      Array.isArray(vocabulary) && vocabulary.every((t) => t === null || typeof t === "string"),
      `Parts of the model file are missing: ${AGAIN}.`);
    checkConfig(config);
    check(vocabulary.length <= config.vocab_size &&
      Object.values(special).every((id) => Number.isInteger(id) && id < config.vocab_size),
      `The tokenizer has more ids than the model's ${config.vocab_size}: ${AGAIN}.`);
    const floats = makeFloats(), places = new Map(), rows = new Map();
    let end = 0, total = 0;
    for (const [name, shape] of tensors) {
      const size = shape.reduce((a, b) => a * b, 1);
      const isBytes = file.format === BYTES && shape.length === 2;  // after a scale a row
      places.set(name, { shape, size, isBytes, start: end });
      end += isBytes ? shape[0] + Math.ceil(size / 2) : size;
    }
    check(end === weights.length,
      `The model file holds ${weights.length} numbers in place of ${end}: ${AGAIN}.`);
    const float = (at) => floats[weights.charCodeAt(at)];
    const take = (name, ...shape) => {
      const place = places.get(name);
      check(String(place?.shape) === String(shape),
        `The model file holds ${name} as [${place?.shape}] in place of [${shape}]: ${AGAIN}.`);
      const { size, isBytes, start } = place, [height, columns] = shape;
      const tensor = new Float32Array(size);
      if (isBytes) {
        const scales = Float32Array.from({ length: height }, (_, row) => float(start + row));
        const numbers = readRows(tensor, columns, weights, start + height, scales);
        rows.set(tensor, { numbers, scales });
      } else for (let i = 0; i < size; i++) tensor[i] = float(start + i);
      for (let i = 0; i < size; i++) total += tensor[i];
      return tensor;
    };
    const model = new GPT(config, take);
    check(Number.isFinite(total), `A weight in the model file is no number: ${AGAIN}.`);
    root.tinygptSimd?.speedUp(model, rows);
    return { model, tokenizer: new Tokenizer(tokenizer) };
  }

  /** Model and tokenizer from the bytes of a weight file (an ArrayBuffer or a view of
      one), read as data: no script runs. */
  function readModel(bytes) {
    check(bytes.byteLength <= LARGEST, `The file has ${Math.round(bytes.byteLength / 1e6)} MB, ` +
      `more than the ${Math.round(LARGEST / 1e6)} MB that a page can hold: choose a smaller model.`);
    const text = new TextDecoder("utf-16le").decode(bytes);
    check(text.startsWith(START), "This is no model file: choose the model.js that tinygpt " +
      "export --format web wrote.");
    check(text.endsWith(";\n"), `The model file is cut off: copy it anew, or ${AGAIN}.`);
    let file;
    try {
      file = JSON.parse(text.slice(START.length, -2));
    } catch (error) {
      throw new UserError(`The model file is damaged (${error.message.slice(0, 80)}): ${AGAIN}.`);
    }
    return buildModel(file);
  }

  // --- finetuning/chat.py -----------------------------------------------------------

  const SPEAKERS = ["<|user|>", "<|assistant|>", "<|end|>"];
  const NAME = /(?<![\p{Alphabetic}\p{M}\p{Nd}\p{Pc}])(User|Assistant|System):/gu;

  /** Whether the vocabulary has tokens for who speaks. */
  function hasSpeakers(tokenizer) {
    return SPEAKERS.every((token) => tokenizer.specialTokens.has(token));
  }

  /** The id that ends an answer: that of <|end|>, or else of <|endoftext|>. */
  function endOfAnswer(tokenizer) {
    const end = hasSpeakers(tokenizer) ? tokenizer.specialTokens.get("<|end|>")
      : tokenizer.endOfText;
    check(end !== undefined, `tokenizer ${tokenizer.name} has no <|endoftext|> to stop at`);
    return end;
  }

  /** A message in plain text; what a user types cannot name another speaker. */
  function asText({ role, content }, tokenizer) {
    if (role === "assistant") {
      return [...tokenizer.encode("Assistant:"), ...tokenizer.encode(` ${strip(content)}`),
        endOfAnswer(tokenizer)];
    }
    const typed = content.split(SPACE).filter(Boolean).join(" ").replace(NAME, "$1 :");
    return tokenizer.encode(`User: ${typed}\n`);
  }

  /** Ids of a conversation so far, and of what asks the assistant for an answer. A
      message is { role: "user" or "assistant", content }. */
  function chatPrompt(messages, tokenizer) {
    endOfAnswer(tokenizer);
    if (!hasSpeakers(tokenizer)) {
      const parts = messages.map((message) => asText(message, tokenizer));
      return [...parts.flat(), ...tokenizer.encode("Assistant:")];
    }
    const special = (token) => tokenizer.specialTokens.get(token);
    const parts = messages.map(({ role, content }) =>
      [special(`<|${role}|>`), ...tokenizer.encode(strip(content)), special("<|end|>")]);
    return [...parts.flat(), special("<|assistant|>")];
  }

  /** The latest messages whose prompt fits into `room` tokens, in whole turns. */
  function cutHistory(messages, tokenizer, room) {
    let kept = messages, n;
    while ((n = chatPrompt(kept, tokenizer).length) > room) {
      const later = kept.findIndex(({ role }, i) => i > 0 && role === "user");
      check(later > 0, `The message has ${n} tokens, but the model has room for ${room}: ` +
        "say it in fewer words.");
      kept = kept.slice(later);
    }
    return kept;
  }

  /** The assistant's answer, piece by piece, until the end mark. A quarter of the context
      is kept free for it. */
  function* answer(model, tokenizer, messages, {
    maxNewTokens = 120, temperature = 0.7, topK = 50, topP = null, seed,
  } = {}) {
    const context = model.config.context_length;
    const kept = cutHistory(messages, tokenizer, context - Math.floor(context / 4));
    const stopToken = endOfAnswer(tokenizer), special = new Set(tokenizer.specialTokens.values());
    const tokens = generate(model, chatPrompt(kept, tokenizer), maxNewTokens,
      { temperature, topK, topP, seed, stopToken });
    const said = function* () { for (const id of tokens) if (!special.has(id)) yield id; };
    let first = true;
    for (const piece of streamText(said(), tokenizer)) {
      yield first ? piece.replace(/^ +/, "") : piece;
      first = false;
    }
  }

  // ----------------------------------------------------------------------------------

  Object.assign(TinyGPT, {
    chatPrompt, cutHistory, answer, buildModel, readModel, LARGEST,
  });
  root.tinygptWeb = { source: `(${define})(globalThis);` };
  if (typeof module !== "undefined" && module.exports) module.exports = TinyGPT;
})(globalThis);
