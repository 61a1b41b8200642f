/* Files of a model that was trained in the page: the playground's model.js, and a run's
   folder, which Python's tinygpt.load opens; both ways. It adds its functions to those of
   tinygpt_train.js, and is only needed when something is saved or opened. What it leaves
   out: compression, GPT-2's layout. */
"use strict";
(function define(root) {
  const T = root.TinyGPTTrain ?? require("./tinygpt_train.js"), { TinyGPT } = root;
  const { parameters, namedWeights, describe, check, round } = T;
  const { MODEL, TRAIN, GPT2_PATTERN, END_OF_TEXT } = T, { UserError, Tokenizer } = TinyGPT;
  const size = (shape) => shape.reduce((a, b) => a * b, 1);

  // --- formats/web.py: model.js -------------------------------------------------------

  /** The 16 bits of the float16 nearest to x, of two the even one. */
  function half(x) {
    const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0, big = Math.abs(x);
    if (!(big < 65520)) return sign | (big > 0 ? 0x7c00 : 0x7e00);
    const exponent = Math.max(-14, Math.floor(Math.log2(big || 1e-30)));
    for (const e of [exponent, exponent + 1, exponent - 1]) {  // log2 may be off by one
      const units = big / 2 ** (e - 10);
      if (units >= 2048 || (units < 1024 && e > -14)) continue;
      return sign | (round(units) + (e + 14) * 1024);  // a carry goes into the exponent
    }
    return sign;
  }

  /** The playground's model.js as bytes (see web.py, which writes the same). */
  function exportModelJs(model, tokenizer) {
    const all = parameters(model.config), weightOf = namedWeights(model);
    const bits = all.map(([name]) => Uint16Array.from(weightOf(name), half));
    check(bits.every((table) => table.every((code) => (code & 0x7c00) !== 0x7c00)),
      "A weight does not fit into 16 bits: train with a smaller learning rate.");
    const decoder = new TextDecoder("utf-16le", { ignoreBOM: true });
    const text = `\ufeffglobalThis.tinygptModel = ${JSON.stringify({
      format: "tinygpt web 2",
      config: model.config,
      tokenizer: describe(tokenizer),
      tensors: all.map(([name, shape]) => [name, shape]),
      weights: bits.map((table) =>
        decoder.decode(table.map((code) => (code << 1 | code >> 15) ^ 0x2000))).join(""),
    })};\n`;
    return new Uint8Array(Uint16Array.from(text, (_, i) => text.charCodeAt(i)).buffer);
  }

  // --- training/checkpoint.py: a folder that tinygpt.load opens -----------------------

  const utf8 = (text) => new TextEncoder().encode(text);

  // Settings that are no whole numbers: Python writes 1.0 where JavaScript has 1.
  const REAL =
    /("\w*(?:dropout|softcap|minutes|lr|momentum|beta\d|decay|fraction|clip)": \d+)(?=[,\n])/g;

  /** Tables by name and shape as a safetensors file, in float32. */
  function writeTensors(tables) {
    const header = { __metadata__: { format: "pt", facts: "{}" } };
    let end = 0;
    for (const [name, shape] of tables) {
      header[name] = { dtype: "F32", shape, data_offsets: [end, end += 4 * size(shape)] };
    }
    const text = JSON.stringify(header), padded = utf8(text.padEnd(8 * Math.ceil(text.length / 8)));
    const file = new Uint8Array(8 + padded.length + end), view = new DataView(file.buffer);
    view.setUint32(0, padded.length, true);
    file.set(padded, 8);
    let at = 8 + padded.length;
    for (const [, , table] of tables) {
      for (const value of table) view.setFloat32(at, value, true), at += 4;
    }
    return file;
  }

  /** The files of a run folder by name: `tinygpt generate --model FOLDER` reads it. */
  function exportRun(model, tokenizer, { train = {}, record = {} } = {}) {
    const weightOf = namedWeights(model), { pattern, name } = tokenizer;
    const { vocabulary, special_tokens } = describe(tokenizer);
    const lines = vocabulary.map((token, id) => `${btoa(token)} ${id}\n`);
    const settings = {
      format: "tinygpt run 1",
      model: model.config,
      train: { ...TRAIN, ...train, data: "a page", tokenizer: name },
      record,
    };
    return {
      "run.json": utf8(`${JSON.stringify(settings, null, 2).replace(REAL, "$1.0")}\n`),
      "best.safetensors": writeTensors(parameters(model.config)
        .map(([name, shape]) => [name, shape, weightOf(name)])),
      "tokenizer.tiktoken": utf8(lines.join("")),
      "tokenizer.json": utf8(JSON.stringify({ name, pattern, special_tokens }, null, 2)),
    };
  }

  const DAMAGED = "is damaged, or from another program: choose the files that a training wrote.";

  function parseJson(bytes, name) {
    try {
      return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch (error) {
      throw new UserError(`${name} ${DAMAGED}`);
    }
  }

  /** Name -> { shape, table } of a safetensors file in F32, F16 or BF16. */
  function readTensors(bytes, name) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = bytes.length >= 8 ? Number(view.getBigUint64(0, true)) : -1, begin = 8 + length;
    check(length > 0 && begin <= bytes.length, `${name} ${DAMAGED}`);
    const widen = {  // kind -> bytes of a number, and the number at a place
      F32: [4, (at) => view.getFloat32(at, true)],
      BF16: [2, (at) => asFloat(view.getUint16(at, true) << 16)],
      F16: [2, (at) => fromHalf(view.getUint16(at, true))],
    };
    const word = new DataView(new ArrayBuffer(4));
    const asFloat = (bits) => {
      word.setInt32(0, bits);
      return word.getFloat32(0);
    };
    const fromHalf = (bits) => {
      const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, rest = (bits & 1023) / 1024;
      return exponent === 31 ? NaN
        : sign * (exponent ? (1 + rest) * 2 ** (exponent - 15) : rest * 2 ** -14);
    };
    const tensors = new Map();
    for (const [key, entry] of Object.entries(parseJson(bytes.subarray(8, begin), name))) {
      if (key === "__metadata__") continue;
      const { dtype, shape, data_offsets: offsets } = entry ?? {};
      const isWhole = Array.isArray(shape) && shape.every((n) => Number.isInteger(n) && n >= 0) &&
        Array.isArray(offsets) && dtype in widen && offsets[0] >= 0 &&
        offsets[1] - offsets[0] === widen[dtype][0] * size(shape) &&
        begin + offsets[1] <= bytes.length;
      check(isWhole, `${name} ${DAMAGED}`);
      const [width, numberAt] = widen[dtype];
      tensors.set(key, {
        shape,
        table: Float32Array.from({ length: size(shape) },
          (_, i) => numberAt(begin + offsets[0] + i * width)),
      });
    }
    return tensors;
  }

  /** Model and tokenizer of a run folder's files { name: Uint8Array }. */
  function importRun(files) {
    const names = ["run.json", "best.safetensors", "tokenizer.tiktoken"];
    const missing = names.filter((name) => !files[name]);
    check(!missing.length, `There is no ${missing[0]} among the files: choose all files of a run ` +
      "(run.json, best.safetensors, tokenizer.tiktoken and tokenizer.json) together.");
    const settings = parseJson(files["run.json"], "run.json");
    check(settings?.format === "tinygpt run 1" && settings.model, `run.json ${DAMAGED}`);
    const config = { ...MODEL, ...settings.model };
    requireKnown(config);
    const vocabulary = new TextDecoder().decode(files["tokenizer.tiktoken"]).trim().split("\n")
      .map((line, id) => {
        const [token, rank] = line.split(" ");
        check(Number(rank) === id, `tokenizer.tiktoken ${DAMAGED}`);
        try {
          return atob(token);
        } catch (error) {
          throw new UserError(`tokenizer.tiktoken ${DAMAGED}`);
        }
      });
    const beside = files["tokenizer.json"] && parseJson(files["tokenizer.json"], "tokenizer.json");
    const { name = "tokenizer", pattern = GPT2_PATTERN, special_tokens } = beside ?? {};
    const tokenizer = new Tokenizer({
      name, pattern, vocabulary,
      special_tokens: special_tokens ?? { [END_OF_TEXT]: vocabulary.length },
    });
    check(tokenizer.vocabSize === config.vocab_size, `tokenizer.tiktoken ${DAMAGED}`);
    const tensors = readTensors(files["best.safetensors"], "best.safetensors");
    const model = new TinyGPT.GPT(config, (key, ...shape) => {
      const found = tensors.get(key);
      check(String(found?.shape) === String(shape), `best.safetensors ${DAMAGED}`);
      return found.table;
    });
    return { model, tokenizer };
  }

  /** A config that the network above can train; others are refused. */
  function requireKnown(config) {
    const known = {
      positions: ["learned", "rotary"], norm: ["layernorm", "rmsnorm"], norm_placement: ["pre"],
      activation: ["relu", "relu2", "gelu"], head_bias: [false], init: ["gpt2", "zero"],
    };
    for (const [name, values] of Object.entries(known)) {
      check(values.includes(config[name]), `The model has ${name} = ${config[name]}, which the ` +
        `page cannot train: it knows ${values.join(" and ")}.`);
    }
    for (const name of ["vocab_size", "context_length", "d_model", "n_heads", "n_layers"]) {
      check(Number.isInteger(config[name]) && config[name] > 0 && config[name] < 2 ** 22,
        `The model has ${name} = ${config[name]}: that is no size.`);
    }
    check(config.d_model % config.n_heads === 0, "The model's heads do not divide its width.");
  }

  /** A trainer that begins with the weights of `model` (a GPT of tinygpt.js, made by
      `readModel`, `importRun` or `fromSnapshot`) in place of random ones. */
  function startFrom(model, data, plan, options) {
    const trainer = new T.Trainer(data, { ...plan, model: model.config }, options);
    const learned = namedWeights(model);
    for (const { name, weight } of trainer.weights) weight.set(learned(name));
    return trainer;
  }

  // --- A .zip of several files --------------------------------------------------------

  /** The check sum that .zip asks for (CRC-32; ISO 3309). */
  function crc32(bytes) {
    let sum = -1;
    for (const byte of bytes) {
      sum ^= byte;
      for (let bit = 0; bit < 8; bit++) sum = sum >>> 1 ^ (sum & 1 ? 0xedb88320 : 0);
    }
    return ~sum >>> 0;
  }

  /** Files { name: Uint8Array } as one .zip, not compressed (PKWARE, APPNOTE 4.3). */
  function zip(files) {
    const whole = (n, bytes) => Array.from({ length: bytes }, (_, i) => n >>> (8 * i) & 255);
    const parts = [], index = [];
    let at = 0, indexed = 0;
    for (const [name, content] of Object.entries(files)) {
      const label = utf8(name), [n, sum] = [content.length, crc32(content)];
      // Version, flags (names are UTF-8), method, time, date (1 January 1980).
      const both = [...[20, 0x800, 0, 0, 33].flatMap((x) => whole(x, 2)),
        ...[sum, n, n].flatMap((x) => whole(x, 4)), ...whole(label.length, 2), 0, 0];
      const head = Uint8Array.from([...whole(0x04034b50, 4), ...both, ...label]);
      const entry = Uint8Array.from([...whole(0x02014b50, 4), 20, 0, ...both,
        ...Array(10).fill(0), ...whole(at, 4), ...label]);
      parts.push(head, content);
      index.push(entry);
      at += head.length + n;
      indexed += entry.length;
    }
    const end = Uint8Array.from([...whole(0x06054b50, 4), 0, 0, 0, 0,
      ...whole(index.length, 2), ...whole(index.length, 2), ...whole(indexed, 4),
      ...whole(at, 4), 0, 0]);
    const all = [...parts, ...index, end], file = new Uint8Array(at + indexed + end.length);
    all.reduce((place, part) => {
      file.set(part, place);
      return place + part.length;
    }, 0);
    return file;
  }

  /** The files in a .zip whose entries are not compressed, as T.zip writes it. */
  function unzip(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), files = {};
    let at = 0;
    while (at + 30 <= bytes.length && view.getUint32(at, true) === 0x04034b50) {
      const [packed, size, label] = [view.getUint16(at + 8, true), view.getUint32(at + 22, true),
        view.getUint16(at + 26, true)];
      if (packed) {
        throw new UserError("This .zip is compressed: unpack it, and choose the files in it together.");
      }
      const name = new TextDecoder().decode(bytes.subarray(at + 30, at + 30 + label));
      const start = at + 30 + label + view.getUint16(at + 28, true);
      files[name.split("/").at(-1)] = bytes.slice(start, start + size);
      at = start + size;
    }
    return files;
  }

  /** Model and tokenizer from the files { name: Uint8Array } that a reader has chosen. */
  function readFiles(files) {
    const names = Object.keys(files), [first] = names;
    if (names.length === 1 && first.endsWith(".js")) return TinyGPT.readModel(files[first]);
    return importRun(names.length === 1 && first.endsWith(".zip") ? unzip(files[first]) : files);
  }

  const files = { exportModelJs, exportRun, importRun, startFrom, zip, readFiles };
  Object.assign(T, files);
  root.tinygptFiles = { ...files, source: `(${define})(globalThis);` };
  if (typeof module !== "undefined" && module.exports) module.exports = root.tinygptFiles;
})(globalThis);
