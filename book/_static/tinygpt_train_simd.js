/* Four numbers at a time, for training: the fast twins of the layers in
   tinygpt_backward.js, in the bytes of tinygpt_wasm.js. All tables lie in one
   piece of memory, and a function gets their places in it, in bytes.

   Most of the time goes into `product`. Reading a number from afar takes longer than
   multiplying it, so both factors are first copied, piece by piece, in the order in which
   they are needed, and 4 x 8 sums stay in registers while k runs (Goto and van de Geijn,
   2008, "Anatomy of High-Performance Matrix Multiplication"). What it leaves out: layers
   that take little time, for which the plain ones serve. */
"use strict";
(function define(root) {
  const {
    int, plus, four, fourOf, load, loadOne, store, add, minus, mul, plusWhole, shift,
    plusProduct, loop, func, compile, instance,
  } = root.tinygptWasm ?? require("./tinygpt_wasm.js");

  const HEIGHT = 4, WIDTH = 8;  // rows and columns of a tile of c
  const DEEP = 256, TALL = 32 * HEIGHT, WIDE = 64 * WIDTH;  // k, rows, columns of a piece

  // Where one is no number, these give a, in one instruction.
  const smallest = (a, b) => four(0xea, a, b);
  const largest = (a, b) => four(0xeb, a, b);
  const over = (a, b) => four(0xe7, a, b);
  const squareRoot = (a) => four(0xe3, a);
  const numbers = (n) => Array.from({ length: n }, (_, i) => i);
  /** Four of the eight numbers in a and b. */
  const shuffle = (places, a, b) => [...four(0x0d, a, b),
    ...places.flatMap((n) => [0, 1, 2, 3].map((byte) => 4 * n + byte))];

  // --- Products -----------------------------------------------------------------------

  /** (a, b, c, row, aEnd, bEnd, deep): c[i][j] += the sum over k of a[k][i] b[k][j], for
      all panels from a to aEnd and from b to bEnd; `row` leads to c's next row, `deep` is
      the length of a panel of a. With more than 4 x 8 sums, or two k in one go, V8 runs
      out of registers, as it fetches everything first. */
  const tiles = (isFused) => func(
    ["a", "b", "c", "row", "aEnd", "bEnd", "deep"], ["p", "q", "to", "stop"],
    [...numbers(HEIGHT).flatMap((i) => [`l${i}`, `r${i}`, `x${i}`]), "left", "right"],
    (get, set, step) => {
      const rows = numbers(HEIGHT);
      const grow = (name, i, part) => set(name, plusProduct(isFused, get(name),
        get(`x${i}`), get(part)));
      return [loop([
        set("to", get("c")),
        set("p", get("a")),
        loop([
          ...rows.flatMap((i) => [set(`l${i}`, fourOf(0)), set(`r${i}`, fourOf(0))]),
          set("q", get("b")),
          set("stop", plus(get("p"), get("deep"))),
          loop([
            set("left", load(get("q"))),
            set("right", load(get("q"), 16)),
            ...rows.map((i) => set(`x${i}`, loadOne(get("p"), 4 * i))),
            ...rows.flatMap((i) => [grow(`l${i}`, i, "left"), grow(`r${i}`, i, "right")]),
            step("p", int(4 * HEIGHT)),
            step("q", int(4 * WIDTH)),
          ], get("p"), get("stop")),
          ...rows.flatMap((i) => [
            store(get("to"), add(load(get("to")), get(`l${i}`))),
            store(get("to"), add(load(get("to"), 16), get(`r${i}`)), 16),
            step("to", get("row")),
          ]),
        ], get("p"), get("aEnd")),
        set("b", get("q")),
        step("c", int(4 * WIDTH)),
      ], get("b"), get("bEnd"))];
    });

  /** (from, to, deep, row, next, toEnd, panel): panels of `width` rows each, in which k
      runs along the rows: 4 x 4 numbers at a time change sides. `deep` is the length of k,
      `next` leads to the next panel's rows, `panel` is a panel's length. */
  const packAlong = (width) => func(["from", "to", "deep", "row", "next", "toEnd", "panel"],
    ["p", "q", "r", "stop"], ["x0", "x1", "x2", "x3", "y0", "y1"], (get, set, step) => {
      const quarter = (offset) => [
        ...numbers(4).flatMap((i) => [set(`x${i}`, load(get("r"))), step("r", get("row"))]),
        ...[[0, 4, 1, 5], [2, 6, 3, 7]].flatMap((places, n) => [
          set("y0", shuffle(places, get("x0"), get("x2"))),
          set("y1", shuffle(places, get("x1"), get("x3"))),
          ...[[0, 4, 1, 5], [2, 6, 3, 7]].map((both, k) => store(get("q"),
            shuffle(both, get("y0"), get("y1")), 4 * width * (2 * n + k) + offset)),
        ]),
      ];
      return [loop([
        set("p", get("from")),
        set("q", get("to")),
        set("stop", plus(get("from"), get("deep"))),
        loop([
          set("r", get("p")),
          ...numbers(width / 4).flatMap((n) => quarter(16 * n)),
          step("p", int(16)),
          step("q", int(16 * width)),
        ], get("p"), get("stop")),
        step("from", get("next")),
        step("to", get("panel")),
      ], get("to"), get("toEnd"))];
    });

  /** (from, to, row, next, toEnd, panel): the same where the numbers of a k lie side by
      side and `row` leads to the next k. */
  const packAcross = (width) => func(["from", "to", "row", "next", "toEnd", "panel"],
    ["p", "q", "stop"], [], (get, set, step) => [loop([
      set("p", get("from")),
      set("q", get("to")),
      set("stop", plus(get("to"), get("panel"))),
      loop([
        ...numbers(width / 4).map((n) => store(get("q"), load(get("p"), 16 * n), 16 * n)),
        step("p", get("row")),
        step("q", int(4 * width)),
      ], get("q"), get("stop")),
      step("from", get("next")),
      set("to", get("q")),
    ], get("to"), get("toEnd"))]);

  // --- Number by number ---------------------------------------------------------------

  /** A function that goes through tables four numbers at a time: `write` gets what stands
      in each of `tables` and the numbers in `given`, and returns what it wants done. */
  const each = (tables, given, fours, write, after = () => []) => func(
    [...tables, "end", "given"], [], ["t", "whole", "power", ...fours, ...given],
    (get, set, step) => {
      const at = (name) => load(get(name));
      const put = (name, a) => store(get(name), a);
      return [
        ...given.map((name, i) => set(name, loadOne(get("given"), 4 * i))),
        loop([
          ...write({ get, set, at, put }),
          ...tables.map((name) => step(name, int(16))),
        ], get(tables[0]), get("end")),
        ...after({ get, put }),
      ];
    });

  /** power = e^x = 2^t: a whole number, which goes into the exponent's bits, and a rest
      within 1/2, for which eight terms of the series of e^(rest ln 2) do. Adding MAGIC
      rounds, and leaves the whole number in the lowest bits. Beyond 2^-64 and 2^64 it stays
      there. */
  const MAGIC = 1.5 * 2 ** 23;
  const exponential = (isFused, get, set, x) => {
    const terms = [1];
    for (let n = 1; n < 8; n++) terms.push(terms[n - 1] * Math.LN2 / n);
    return [
      set("t", largest(smallest(mul(x, fourOf(1 / Math.LN2)), fourOf(64)), fourOf(-64))),
      set("whole", add(get("t"), fourOf(MAGIC))),
      set("t", minus(get("t"), minus(get("whole"), fourOf(MAGIC)))),
      set("power", terms.map(fourOf)
        .reduceRight((sum, term) => plusProduct(isFused, term, sum, get("t")))),
      set("power", plusWhole(get("power"), shift(get("whole"), 23))),
    ];
  };

  const ROOT = Math.sqrt(2 / Math.PI), CUBE = 0.044715;

  /** All functions; `exp` of the last ones is `exponential`. */
  function functions(isFused) {
    const exp = (get, set, x) => exponential(isFused, get, set, x);
    const sumTo = ({ get, put }) => [put("given", get("sum"))];
    const square = (a) => mul(a, a);
    /** share = 1 / (1 + e^-2u), the part of x that GELU lets through. */
    const gate = ({ get, set, at }) => [
      set("t", at("x")),
      ...exp(get, set, mul(get("t"), add(fourOf(2 * ROOT),
        mul(square(get("t")), fourOf(2 * ROOT * CUBE))))),
      set("share", minus(fourOf(1), over(fourOf(1), add(get("power"), fourOf(1))))),
    ];
    const positive = (a) => largest(a, fourOf(0));
    return {
      tiles: tiles(isFused),
      packAlong4: packAlong(4), packAlong8: packAlong(8),
      packAcross4: packAcross(4), packAcross8: packAcross(8),

      blend: each(["a", "b"], ["x", "y"], [], ({ get, at, put }) => [
        put("a", add(mul(get("x"), at("a")), mul(get("y"), at("b"))))]),

      dot: each(["a", "b"], ["sum"], [], ({ get, set, at }) => [
        set("sum", plusProduct(isFused, get("sum"), at("a"), at("b")))], sumTo),

      gelu: each(["x", "y"], [], ["share"], ({ get, set, at, put }) => [
        ...gate({ get, set, at }),
        put("y", mul(at("x"), get("share"))),
      ]),

      geluBackward: each(["dx", "dy", "x"], [], ["share"], ({ get, set, at, put }) => [
        ...gate({ get, set, at }),
        set("t", square(at("x"))),
        set("t", mul(at("x"), add(fourOf(2 * ROOT), mul(get("t"), fourOf(6 * ROOT * CUBE))))),
        set("t", mul(get("t"), minus(fourOf(1), get("share")))),
        put("dx", mul(at("dy"), mul(get("share"), add(fourOf(1), get("t"))))),
      ]),

      relu2: each(["x", "y"], [], [], ({ at, put }) => [put("y", square(positive(at("x"))))]),

      relu2Backward: each(["dx", "dy", "x"], [], [], ({ at, put }) => [
        put("dx", mul(at("dy"), mul(fourOf(2), positive(at("x")))))]),

      /** Every number at least as large as any of its column of four. */
      most: each(["x"], ["sum"], [], ({ get, set, at }) => [
        set("sum", largest(get("sum"), at("x")))], sumTo),

      /** x = e^((x - shift) times); the sum goes to `given`. */
      expRow: each(["x"], ["sum", "shift", "times"], [], ({ get, set, at, put }) => [
        ...exp(get, set, mul(minus(at("x"), get("shift")), get("times"))),
        set("sum", add(get("sum"), get("power"))),
        put("x", get("power")),
      ], sumTo),

      /** e = e^(x - shift), whose sum goes to `given`. */
      expTo: each(["x", "e"], ["sum", "shift"], [], ({ get, set, at, put }) => [
        ...exp(get, set, minus(at("x"), get("shift"))),
        set("sum", add(get("sum"), get("power"))),
        put("e", get("power")),
      ], sumTo),

      /** The same after x = cap tanh(x / cap), given 2 / cap, cap and 2 cap; shift is cap. */
      soften: each(["x", "e"], ["sum", "twice", "cap", "double"], ["y"],
        ({ get, set, at, put }) => [
          ...exp(get, set, mul(at("x"), get("twice"))),
          set("y", minus(get("cap"), over(get("double"), add(get("power"), fourOf(1))))),
          put("x", get("y")),
          ...exp(get, set, minus(get("y"), get("cap"))),
          set("sum", add(get("sum"), get("power"))),
          put("e", get("power")),
        ], sumTo),

      /** x = scale (1 - x^2 / cap^2) e. */
      surprise: each(["x", "e"], ["scale", "bent"], [], ({ get, at, put }) => [
        put("x", mul(mul(get("scale"), at("e")),
          minus(fourOf(1), mul(square(at("x")), get("bent")))))]),

      /** d = p (d - along) scale. */
      softmaxBack: each(["d", "p"], ["along", "scale"], [], ({ get, at, put }) => [
        put("d", mul(mul(at("p"), get("scale")), minus(at("d"), get("along"))))]),

      adamw: each(["w", "g", "m", "v"],
        ["new1", "old2", "new2", "keep", "rate", "unbias", "eps"], ["g0"],
        ({ get, set, at, put }) => [
          set("g0", at("g")),
          put("m", add(at("m"), mul(get("new1"), minus(get("g0"), at("m"))))),
          put("v", add(mul(get("old2"), at("v")), mul(get("new2"), square(get("g0"))))),
          put("w", minus(mul(get("keep"), at("w")), over(mul(get("rate"), at("m")),
            add(mul(squareRoot(at("v")), get("unbias")), get("eps"))))),
        ]),
    };
  }

  // --- The layers on this memory ------------------------------------------------------

  const SPARE = 4096;  // bytes for the numbers given to a function

  /** A memory with room for `bytes` bytes of tables: `allocate(n)` gives an array of n
      zeros in it, and `layers` work on such arrays; null where there is no SIMD. */
  function kernels(bytes, plain, compose) {
    const code = compile(functions);
    if (!code) return null;
    const panelsA = 4 * TALL * DEEP, panelsB = 4 * WIDE * DEEP, edge = 4 * TALL * WIDE;
    // The panels come last: a panel's unused rows may be read from beyond a table's end.
    const aAt = SPARE + bytes, bAt = aAt + panelsA, edgeAt = bAt + panelsB;
    const { buffer, floats, ...run } = instance(code, edgeAt + edge + (1 << 20));
    let end = SPARE;

    function allocate(n) {
      const table = new Float32Array(buffer, end, n);
      end += 16 * Math.ceil(n / 4);
      if (end > aAt) throw new RangeError("more tables than were counted");
      return table;
    }

    /** Panels of M x K numbers from byte `from` on, `width` rows each; their end. The last
        one may have rows that nobody needs. */
    function pack(from, row, column, M, K, to, width) {
      const panel = 4 * width * K, end = to + Math.ceil(M / width) * panel;
      if (row === 1) {
        run[`packAcross${width}`](from, to, 4 * column, 4 * width, end, panel);
        return end;
      }
      const whole = column === 1 ? K - K % 4 : 0;
      if (whole) {
        run[`packAlong${width}`](from, to, 4 * whole, 4 * row, 4 * row * width, end, panel);
      }
      for (let k = whole; k < K; k++) {
        for (let m = 0; m < M; m++) {
          const place = to + Math.floor(m / width) * panel + 4 * (k * width + m % width);
          floats[place / 4] = floats[from / 4 + m * row + k * column];
        }
      }
      return end;
    }

    function product(M, N, K, a, aRow, aCol, b, bRow, bCol, c, cRow) {
      const place = (table, offset) => table.byteOffset + 4 * offset;
      for (let k = 0; k < K; k += DEEP) {
        const kc = Math.min(DEEP, K - k), deep = 4 * HEIGHT * kc;
        for (let n = 0; n < N; n += WIDE) {
          const nc = Math.min(WIDE, N - n), right = nc % WIDTH;
          const bEnd = pack(place(b, k * bRow + n * bCol), bCol, bRow, nc, kc, bAt, WIDTH);
          const bWhole = right ? bEnd - 4 * WIDTH * kc : bEnd;
          for (let m = 0; m < M; m += TALL) {
            const mc = Math.min(TALL, M - m), below = mc % HEIGHT, to = m * cRow + n;
            const aEnd = pack(place(a, m * aRow + k * aCol), aRow, aCol, mc, kc, aAt, HEIGHT);
            const aWhole = below ? aEnd - deep : aEnd;
            if (aWhole > aAt && bWhole > bAt) {
              run.tiles(aAt, bAt, place(c, to), 4 * cRow, aWhole, bWhole, deep);
            }
            if (right) partly(aAt, bWhole, aEnd, bEnd, deep, c, to + nc - right, cRow, mc, right);
            if (below && bWhole > bAt) {
              partly(aWhole, bAt, aEnd, bWhole, deep, c, to + (mc - below) * cRow, cRow, below,
                nc - right);
            }
          }
        }
      }
    }

    /** Tiles that go beyond the edge of c: added elsewhere first, and then those `rows` x
        `columns` of them that belong to c. */
    function partly(a, b, aEnd, bEnd, deep, c, to, cRow, rows, columns) {
      const width = Math.ceil(columns / WIDTH) * WIDTH, height = Math.ceil(rows / HEIGHT) * HEIGHT;
      floats.fill(0, edgeAt / 4, edgeAt / 4 + height * width);
      run.tiles(a, b, edgeAt, 4 * width, aEnd, bEnd, deep);
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < columns; j++) {
          c[to + i * cRow + j] += floats[edgeAt / 4 + i * width + j];
        }
      }
    }

    /** Call a function of `each` on the whole fours of the tables, with the numbers
        `given`; returns how many numbers of a table were left over. */
    function go(name, tables, ...given) {
      const n = tables[0].length, rest = n % 4, places = tables.map((table) => table.byteOffset);
      floats.set(given);
      if (n > rest) run[name](...places, places[0] + 4 * (n - rest), 0);
      return rest;
    }

    /** A function's sums, the four that it left where its numbers had been. */
    const result = () => floats[0] + floats[1] + floats[2] + floats[3];
    /** `slow` for the last numbers of tables. */
    const finish = (rest, slow, tables, ...more) => {
      if (rest) slow(...tables.map((table) => table.subarray(-rest)), ...more);
    };

    function blend(a, b, x, y) {
      finish(go("blend", [a, b], x, y), plain.blend, [a, b], x, y);
    }

    function dot(a, b) {
      const rest = go("dot", [a, b], 0), whole = a.length > rest ? result() : 0;
      return rest ? whole + plain.dot(a.subarray(-rest), b.subarray(-rest)) : whole;
    }

    function activate(kind, x, y) {
      const slow = (...tables) => plain.activate(kind, ...tables);
      if (kind === "relu") slow(x, y);
      else finish(go(kind, [x, y]), slow, [x, y]);
    }

    function activateBackward(kind, dy, x, dx) {
      const slow = (...tables) => plain.activateBackward(kind, ...tables);
      if (kind === "relu") slow(dy, x, dx);
      else finish(go(`${kind}Backward`, [dx, dy, x]), slow, [dy, x, dx]);
    }

    function adamw(weight, gradient, mean, square, rates) {
      const { lr, decay, beta1, beta2, t } = rates, tables = [weight, gradient, mean, square];
      const rest = go("adamw", tables, 1 - beta1, beta2, 1 - beta2, 1 - lr * decay,
        lr / (1 - beta1 ** t), 1 / Math.sqrt(1 - beta2 ** t), 1e-8);
      finish(rest, plain.adamw, tables, rates);
    }

    /** The largest number of a row of whole fours. */
    function highest(row) {
      go("most", [row], -Infinity);
      return Math.max(floats[0], floats[1], floats[2], floats[3]);
    }

    function softmaxRows(scores, T, scale, isCausal) {
      if (T % 4) return plain.softmaxRows(scores, T, scale, isCausal);
      for (let t = 0; t < T; t++) {
        const seen = isCausal ? t + 1 : T, padded = Math.ceil(seen / 4) * 4;
        const row = scores.subarray(t * T, t * T + padded);
        row.fill(-Infinity, seen);
        go("expRow", [row], 0, highest(row), scale);
        const sum = result();
        go("blend", [row, row], 1 / sum, 0);
        scores.fill(0, t * T + seen, (t + 1) * T);
      }
    }

    function softmaxRowsBackward(dShares, shares, T, scale) {
      if (T % 4) return plain.softmaxRowsBackward(dShares, shares, T, scale);
      for (let t = 0; t < T * T; t += T) {
        const d = dShares.subarray(t, t + T), p = shares.subarray(t, t + T);
        go("softmaxBack", [d, p], dot(d, p), scale);
      }
    }

    function crossEntropy(logits, targets, losses, V, scale, cap = 0) {
      if (V % 4 || 4 * V > edge) {
        return plain.crossEntropy(logits, targets, losses, V, scale, cap);
      }
      const powers = new Float32Array(buffer, edgeAt, V), bent = cap ? 1 / (cap * cap) : 0;
      for (let n = 0; n < targets.length; n++) {
        const row = logits.subarray(n * V, (n + 1) * V), target = targets[n];
        losses[n] = 0;
        if (target < 0) {
          row.fill(0);
          continue;
        }
        const top = cap || highest(row);  // nothing is above the cap
        if (cap) go("soften", [row, powers], 0, 2 / cap, cap, 2 * cap);
        else go("expTo", [row, powers], 0, top);
        const sum = result(), chosen = row[target];
        losses[n] = top + Math.log(sum) - chosen;
        go("surprise", [row, powers], scale / sum, bent);
        row[target] -= scale * (1 - chosen * chosen * bent);
      }
    }

    const own = {
      ...plain, product, blend, dot, activate, activateBackward, adamw, softmaxRows,
      softmaxRowsBackward, crossEntropy,
    };
    return { allocate, layers: compose(own) };
  }

  root.tinygptTrainSimd = { kernels, source: `(${define})(globalThis);` };
  if (typeof module !== "undefined" && module.exports) module.exports = root.tinygptTrainSimd;
})(globalThis);
