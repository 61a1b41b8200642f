/* Four numbers at a time: the fast twins of `Linear.product`, `gather`, `FeedForward.bend`
   (for GELU) and `GPT.soften` in tinygpt.js. That file works without this one and gives
   the same, up to rounding.

   JavaScript has no instruction for four numbers at once, but WebAssembly has. So this file
   writes six short functions in WebAssembly's bytes, out of the instructions of
   tinygpt_wasm.js. Weights stay in the file's 8 or 16 bits, as reading them takes much of
   the time.
   What it leaves out: all other steps of the model. Where a page's policy forbids
   WebAssembly, or SIMD is unknown, everything stays as it was. */
"use strict";
(function define(root) {
  const {
    int, plus, times, four, fourOf, load, loadOne, store, add, minus, mul, plusWhole, shift,
    plusProduct, loop, func, compile, instance,
  } = root.tinygptWasm ?? require("./tinygpt_wasm.js");

  // --- Weights in 16 bits -------------------------------------------------------------

  /* Sign, 5 bits of exponent, 10 of fraction, as in float16, but with exponents that
     belong to 2^-24 .. 2^6, so that float16's smallest numbers need no rule of their own.
     Shifted left by 13, they are the bits of a float32 that is 2^102 times too small. */
  const LOWEST = 127 - 25;
  const SCALES = [2 ** 60, 2 ** 42];  // of x and of y: in two, so that nothing underflows

  /** The 16 bits for those of a float32, or -1 if it has none. */
  function shorten(bits) {
    const size = (bits & 0x7fffffff) - (LOWEST << 23);
    if ((bits & 0x7fffffff) === 0) return 0;
    if (size < 1 << 23 || size >= 1 << 28 || bits & 0x1fff) return -1;
    return (bits >>> 16 & 0x8000) | size >> 13;
  }

  /** The rows of a weight in 16 bits; none if it has a number that these cannot hold. */
  function shortRows({ weight, outputs }) {
    const bits = new Int32Array(weight.buffer, weight.byteOffset, weight.length).map(shorten);
    if (bits.includes(-1)) return null;
    return { numbers: new Int16Array(bits), scales: new Float32Array(outputs).fill(SCALES[1]) };
  }

  // --- Weights in 8 bits --------------------------------------------------------------

  /* Whole numbers are multiplied without turning each weight into a float first, so x
     becomes whole numbers, too: of 30 bits, where a float has 24. Whatever is at least a
     32nd of the largest arrives unchanged, and sums of whole numbers round nothing. */
  const WIDEST = 2048;  // numbers in x; the sums of more might leave 32 bits

  /** By what power of two `x` is multiplied for that. */
  function power(x) {
    let largest = 2 ** -70;
    for (let n = 0; n < x.length; n++) largest = Math.max(largest, Math.abs(x[n]));
    return 29 - Math.ceil(Math.log2(largest));
  }

  // --- Instructions that only these functions need ------------------------------------

  const plusFloat = (a, b) => [...a, ...b, 0x92];
  const timesFloat = (a, b) => [...a, ...b, 0x94];
  const loadFloat = (place, offset) => [...place, 0x2a, 2, offset];
  const storeFloat = (place, a, offset) => [...place, ...a, 0x38, 2, offset];
  const loadBytes = (place, offset) => [...four(0x01, place), 3, offset];  // as shorts
  const loadShorts = (place, offset) => [...four(0x03, place), 3, offset];  // signed
  const pairs = (a, b) => four(0xba, a, b);  // a0 b0 + a1 b1, a2 b2 + a3 b3, ... of shorts
  const shorter = (a, b) => four(0x85, a, b);  // four wholes and four more, as shorts
  const shiftRight = (a, n) => four(0xac, a, int(n));
  const toFloat = (a) => four(0xfa, a);
  const within = (a, limit) => four(0xe9, four(0xe8, a, fourOf(limit)), fourOf(-limit));
  const nearest = (a) => four(0x6a, a);
  const toWhole = (a) => four(0xf8, a);
  const both = (a, b) => four(0x4e, a, b);  // bit by bit
  const lane = (a, n) => [...four(0x1f, a), n];
  const total = (a) => [1, 2, 3].reduce((sum, n) => plusFloat(sum, lane(a, n)), lane(a, 0));

  // --- The six functions --------------------------------------------------------------
  // All places are in bytes, `end` is where y ends, `row` the way to a table's next row.

  const ROWS = [0, 1, 2, 3];

  /** (table, x, y, inputs, end): y[o] = the sum of weight[o][n] x[n], `inputs` (a multiple
      of 8) of them, times a scale. Four rows go side by side, as each part of x is then
      fetched once for all; the table holds eight numbers of each of the four, then the next
      eight, at last the four scales. `write` says how `eight` more products enter the sums,
      and what each `sum` is in the end. */
  const linear = (bytes, sums, others, write) => func(["table", "x", "y", "inputs", "end"],
    ["at", "stop"], [...sums, ...others], (get, set, step) => {
      const { before = [], eight, sum } = write(get, set);
      return [
        before,
        set("stop", plus(get("x"), times(get("inputs"), int(4)))),
        loop([
          ...sums.map((name) => set(name, fourOf(0))),
          set("at", get("x")),
          loop([
            ...eight,
            step("table", int(32 * bytes)),
            step("at", int(32)),
          ], get("at"), get("stop")),
          ...ROWS.map((k) => storeFloat(get("y"),
            timesFloat(total(sum(k)), loadFloat(get("table"), 4 * k)), 4 * k)),
          step("table", int(16)),
          step("y", int(16)),
        ], get("y"), get("end")),
      ];
    });

  /** `linear` of weights in 16 bits. */
  const shorts = (isFused) => linear(2, ROWS.map((k) => `s${k}`), ["some", "mask"],
    (get, set) => {
      // The shift copies a number's sign to bits 28 to 31; the mask leaves that in bit 31.
      const short = (k, n) => loadShorts(get("table"), 16 * k + 2 * n);
      const weight = (k, n) => both(shift(short(k, n), 13), get("mask"));
      return {
        before: set("mask", four(0x11, int(0x8fffffff | 0))),
        eight: [0, 4].flatMap((n) => [
          set("some", mul(load(get("at"), 4 * n), fourOf(SCALES[0]))),
          ...ROWS.map((k) => set(`s${k}`,
            plusProduct(isFused, get(`s${k}`), get("some"), weight(k, n))))]),
        sum: (k) => get(`s${k}`),
      };
    });

  /** (x, end): numbers become whole ones of 30 bits, times what stands behind the last: of
      each eight the upper 15 bits, then the lower. */
  const halve = func(["x", "end"], [], ["a", "b"], (get, set, step) => {
    const times = (n) => toWhole(mul(load(get("x"), n), loadOne(get("end"))));
    const each = (half) => shorter(half(get("a")), half(get("b")));
    return [
      loop([
        set("a", times(0)),
        set("b", times(16)),
        store(get("x"), each((a) => shiftRight(a, 15))),
        store(get("x"), each((a) => both(a, four(0x11, int(0x7fff)))), 16),
        step("x", int(32)),
      ], get("x"), get("end")),
    ];
  });

  /** `linear` of weights in 8 bits and an x of `halve`, behind which stands what a 1 in it
      is worth. The sums of the upper and of the lower halves are floats only in the end. */
  const bytes = linear(1, ROWS.flatMap((k) => [`upper${k}`, `lower${k}`]),
    ["upper", "lower", "some"], (get, set) => ({
      eight: [
        set("upper", load(get("at"))),
        set("lower", load(get("at"), 16)),
        ...ROWS.flatMap((k) => [
          set("some", loadBytes(get("table"), 8 * k)),
          ...["upper", "lower"].map((half) => set(half + k,
            plusWhole(get(half + k), pairs(get("some"), get(half)))))]),
      ],
      sum: (k) => mul(loadOne(get("stop")), add(
        mul(toFloat(get(`upper${k}`)), fourOf(1 << 15)), toFloat(get(`lower${k}`)))),
    }));

  /** (table, x, y, inputs, end, row): y[s] = the sum of table[s][n] x[n]. */
  const scores = (isFused) => func(["table", "x", "y", "inputs", "end", "row"],
    ["at", "w", "stop"], ["s0", "s4"], (get, set, step) => [
      set("stop", plus(get("x"), times(get("inputs"), int(4)))),
      loop([
        ...[0, 4].map((n) => set(`s${n}`, fourOf(0))),
        set("at", get("x")),
        set("w", get("table")),
        loop([
          ...[0, 4].map((n) => set(`s${n}`, plusProduct(
            isFused, get(`s${n}`), load(get("at"), 4 * n), load(get("w"), 4 * n)))),
          step("w", int(32)),
          step("at", int(32)),
        ], get("at"), get("stop")),
        storeFloat(get("y"), total(add(get("s0"), get("s4"))), 0),
        step("table", get("row")),
        step("y", int(4)),
      ], get("y"), get("end")),
    ]);

  /** (table, x, y, stop, end, row): y[i] = the sum of x[s] table[s][i]. x ends at `stop`;
      rows have a multiple of 8 numbers. */
  const mix = (isFused) => func(["table", "x", "y", "stop", "end", "row"], ["at", "w"],
    ["s0", "s4", "some"], (get, set, step) => [
      loop([
        ...[0, 4].map((n) => set(`s${n}`, fourOf(0))),
        set("at", get("x")),
        set("w", get("table")),
        loop([
          set("some", loadOne(get("at"))),
          ...[0, 4].map((n) => set(`s${n}`,
            plusProduct(isFused, get(`s${n}`), get("some"), load(get("w"), 4 * n)))),
          step("w", get("row")),
          step("at", int(4)),
        ], get("at"), get("stop")),
        ...[0, 4].map((n) => store(get("y"), get(`s${n}`), 4 * n)),
        step("table", int(32)),
        step("y", int(32)),
      ], get("y"), get("end")),
    ]);

  /** (x, end): every number from place x on becomes e^x. That is 2^t with t = x / ln 2: a
      whole number, which goes into the exponent's bits, and a rest within 1/2, for which
      nine terms of the series of e^(rest ln 2) do. Beyond 2^-64 and 2^64 it stays there. */
  const exp = func(["x", "end"], [], ["t", "whole"], (get, set, step) => {
    const terms = [1];
    for (let n = 1; n < 9; n++) terms.push(terms[n - 1] * Math.LN2 / n);
    const series = terms.map(fourOf).reduceRight((sum, term) => add(term, mul(sum, get("t"))));
    return [
      loop([
        set("t", within(mul(load(get("x")), fourOf(1 / Math.LN2)), 64)),
        set("whole", nearest(get("t"))),
        set("t", minus(get("t"), get("whole"))),
        store(get("x"), plusWhole(series, shift(toWhole(get("whole")), 23))),
        step("x", int(16)),
      ], get("x"), get("end")),
    ];
  });

  // --- Into the model -----------------------------------------------------------------

  const VECTOR = 1 << 20;  // bytes kept for x, and as many for y
  const padded = (n, to = 4) => Math.ceil(n / to) * to;

  /** Give `model` a faster tanh x = 1 - 2 / (e^2x + 1): its GELUs and the soft cap on its
      logits need it, of as many numbers at a time as the memory holds. */
  function quickenTanh(code, model) {
    const { exp, floats } = instance(code, VECTOR), ROOT = Math.sqrt(2 / Math.PI);
    const tanhOf = (i) => 1 - 2 / (floats[i] + 1);
    const inParts = (act) => (x, cap) => {
      for (let from = 0; from < x.length; from += floats.length) {
        act(x.subarray(from, from + floats.length), cap);
      }
    };
    const gelu = inParts((x) => {
      for (let i = 0; i < x.length; i++) {
        floats[i] = 2 * ROOT * (x[i] + 0.044715 * x[i] * x[i] * x[i]);
      }
      exp(0, 4 * padded(x.length));
      for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + tanhOf(i));
    });
    if (model.config.activation === "gelu") {
      for (const { feedForward } of model.blocks) feedForward.bend = gelu;
    }
    model.soften = inParts((x, cap) => {
      for (let i = 0; i < x.length; i++) floats[i] = 2 * x[i] / cap;
      exp(0, 4 * padded(x.length));
      for (let i = 0; i < x.length; i++) x[i] = cap * tanhOf(i);
    });
  }

  /** Give `linears` a faster `product`, with the bytes that `rows` has for a weight or else
      with 16 bits. One keeps its own if it has a number that these cannot hold, or is too
      wide. */
  function quickenLinears(code, linears, rows) {
    const isByte = ({ weight, inputs }) => rows.has(weight) && inputs <= WIDEST;
    const sizes = linears.map((layer) =>
      padded(layer.outputs) * ((isByte(layer) ? 1 : 2) * padded(layer.inputs, 8) + 4));
    const memory = instance(code, sizes.reduce((a, b) => a + b, 2 * VECTOR)), { floats } = memory;
    let end = 2 * VECTOR;
    for (const linear of linears) {
      const { weight, inputs, outputs } = linear, start = end, isShort = !isByte(linear);
      const width = padded(inputs, 8), height = padded(outputs);
      const found = isShort ? shortRows(linear) : rows.get(weight);
      if (!found || 4 * Math.max(width + 1, height) > VECTOR) continue;
      const { numbers, scales } = found, size = numbers.BYTES_PER_ELEMENT;
      end += height * (size * width + 4);
      const table = new numbers.constructor(memory.buffer, start, (end - start) / size);
      for (let o = 0, i = 0; o < outputs; o++) {
        const group = (o >> 2) * (4 * width + 16 / size), row = group + 8 * (o % 4);
        for (let n = 0; n < inputs; n++) table[row + 4 * (n - n % 8) + n % 8] = numbers[i++];
        floats[(start + size * (group + 4 * width)) / 4 + o % 4] = scales[o];
      }
      linear.product = (x) => {
        const T = x.length / inputs, y = new Float32Array(T * outputs);
        const yEnd = VECTOR + 4 * height;
        for (let t = 0; t < T; t++) {
          const from = x.subarray(t * inputs, (t + 1) * inputs);
          floats.set(from);
          floats.fill(0, inputs, width);
          if (isShort) memory.shorts(start, 0, VECTOR, width, yEnd);
          else {
            const n = power(from);
            floats[width] = 2 ** n;
            memory.halve(0, 4 * width);
            floats[width] = 2 ** -n;
            memory.bytes(start, 0, VECTOR, width, yEnd);
          }
          y.set(floats.subarray(VECTOR / 4, VECTOR / 4 + outputs), t * outputs);
        }
        return y;
      };
    }
  }

  /** Put a cache's tables into a memory beside q, scores and y, and let it `gather`. */
  function quickenCache(code, cache, { n_heads: H, d_model: C, context_length }) {
    const D = C / H, room = padded(context_length), table = room * C, length = Math.sqrt(D);
    const scoresAt = C, yAt = scoresAt + room, tablesAt = yAt + C;
    const end = tablesAt + 2 * cache.tables.length * table;
    const { scores, exp, mix, floats } = instance(code, 4 * end);
    cache.tables = cache.tables.map((pair, layer) => pair.map((numbers, n) => {
      const start = tablesAt + (2 * layer + n) * table;
      floats.set(numbers, start);
      return floats.subarray(start, start + numbers.length);
    }));
    cache.gather = (layer, q, S) => {
      const keys = 4 * (tablesAt + 2 * layer * table), values = keys + 4 * table;
      for (let i = 0; i < C; i++) floats[i] = q[i] / length;
      for (let i = 0; i < 4 * C; i += 4 * D) {  // a head each
        scores(keys + i, i, 4 * scoresAt, D, 4 * (scoresAt + S), 4 * C);
        softmax(scoresAt, scoresAt + S);
        mix(values + i, 4 * scoresAt, 4 * yAt + i, 4 * (scoresAt + S), 4 * (yAt + D) + i, 4 * C);
      }
      return floats.subarray(yAt, yAt + C);
    };

    function softmax(start, end) {
      let largest = -Infinity, sum = 0;
      for (let i = start; i < end; i++) largest = Math.max(largest, floats[i]);
      for (let i = start; i < end; i++) floats[i] -= largest;
      exp(4 * start, 4 * (start + padded(end - start)));
      for (let i = start; i < end; i++) sum += floats[i];
      for (let i = start; i < end; i++) floats[i] /= sum;
    }
  }

  /** Make a model of tinygpt.js fast, where that can be. `rows` maps a weight to its whole
      `numbers` and their `scales`, where the file has such. */
  function speedUp(model, rows = new Map()) {
    const code = compile((isFused) => ({
      halve, bytes, shorts: shorts(isFused), scores: scores(isFused), mix: mix(isFused), exp }));
    if (!code) return;
    const { config, newCache } = model;
    if (config.d_model / config.n_heads % 8 === 0) {
      model.newCache = () => {
        const cache = newCache.call(model);
        cache.gather = (...given) => {  // the first time; who looks inside never calls it
          quickenCache(code, cache, config);
          return cache.gather(...given);
        };
        return cache;
      };
    }
    quickenTanh(code, model);
    quickenLinears(code, [model.head, ...model.blocks.flatMap(
      ({ attention: a, feedForward: f }) => [a.qkv, a.output, f.input, f.output])], rows);
  }

  root.tinygptSimd = { speedUp, source: `(${define})(globalThis);` };
  if (typeof module !== "undefined" && module.exports) module.exports = root.tinygptSimd;
})(globalThis);
