/* WebAssembly's bytes, written by hand: what tinygpt_simd.js (a model that answers) and
   tinygpt_train_simd.js (one that learns) make their functions of. JavaScript has no
   instruction for four numbers at once; WebAssembly has (SIMD; webassembly.github.io/spec,
   chapters 2 and 5). What it leaves out: the functions themselves, and all instructions
   that they do not need. */
"use strict";
(function define(root) {

  // --- Instructions -------------------------------------------------------------------

  const I32 = 0x7f, V128 = 0x7b;  // kinds: a whole number, four floats

  /** A number as WebAssembly writes it: seven bits a byte, the last without bit 7. */
  function leb(n) {
    const bytes = [];
    for (; n < -64 || n > 63; n >>= 7) bytes.push(n & 0x7f | 0x80);
    return [...bytes, n & 0x7f];
  }

  // Each gives bytes: first those of what it works on, then its own.
  const int = (n) => [0x41, ...leb(n)];
  const float = (x) => [0x43, ...new Uint8Array(Float32Array.of(x).buffer)];
  const plus = (a, b) => [...a, ...b, 0x6a];
  const times = (a, b) => [...a, ...b, 0x6c];
  const four = (code, ...on) => [...on.flat(), 0xfd,
    ...(code > 0x7f ? [code & 0x7f | 0x80, code >> 7] : [code])];
  const fourOf = (x) => four(0x13, float(x));
  const load = (place, offset = 0) => [...four(0x00, place), 4, ...leb(offset)];
  const loadOne = (place, offset = 0) =>  // four times the same
    [...four(0x09, place), 2, ...leb(offset)];
  const store = (place, a, offset = 0) => [...four(0x0b, place, a), 4, ...leb(offset)];
  const add = (a, b) => four(0xe4, a, b);
  const minus = (a, b) => four(0xe5, a, b);
  const mul = (a, b) => four(0xe6, a, b);
  const plusWhole = (a, b) => four(0xae, a, b);
  const shift = (a, n) => four(0xab, a, int(n));
  /** a + b c; as one instruction in browsers that know it ("relaxed" SIMD). */
  const plusProduct = (isFused, a, b, c) => (
    isFused ? four(0x105, b, c, a) : add(a, mul(b, c)));
  /** Do `body` and, as long as then a < b, again. */
  const loop = (body, a, b) => [0x03, 0x40, ...body.flat(), ...a, ...b, 0x49, 0x0d, 0, 0x0b];

  const PARAMETERS = 8;  // of every function; what a caller leaves out is 0

  /** A function of whole numbers. `write` learns how to `get` and `set` each name. */
  function func(parameters, wholes, fours, write) {
    const names = [...parameters, ...wholes, ...fours];
    names.splice(parameters.length, 0, ...Array(PARAMETERS - parameters.length));
    const get = (name) => [0x20, names.indexOf(name)];
    const set = (name, value) => [...value, 0x21, names.indexOf(name)];
    const step = (name, n) => set(name, plus(get(name), n));
    const locals = [2, wholes.length, I32, fours.length, V128];
    return [...locals, ...write(get, set, step).flat(), 0x0b];
  }

  // --- A module -----------------------------------------------------------------------

  /** A module that takes a memory and gives the functions. */
  function assemble(functions) {
    const each = Object.entries(functions), n = each.length;
    const text = (word) => [word.length, ...new TextEncoder().encode(word)];
    const sized = (bytes) => [bytes.length & 0x7f | 0x80, bytes.length >> 7 & 0x7f | 0x80,
      bytes.length >> 14, ...bytes];
    const section = (id, ...bytes) => [id, ...sized(bytes)];
    return Uint8Array.from([
      0, ...new TextEncoder().encode("asm"), 1, 0, 0, 0,
      ...section(1, 1, 0x60, PARAMETERS, ...Array(PARAMETERS).fill(I32), 0),  // no result
      ...section(2, 1, ...text("page"), ...text("memory"), 2, 0, 1),
      ...section(3, n, ...Array(n).fill(0)),
      ...section(7, n, ...each.flatMap(([name], i) => [...text(name), 0, i])),
      ...section(10, n, ...each.flatMap(([, code]) => sized(code))),
    ]);
  }

  /** The functions compiled, or null where that is not to be had. `write` gives them,
      with an instruction for a + b c or without. */
  function compile(write) {
    if (!root.WebAssembly) return null;
    try {
      const fused = assemble(write(true));
      return new WebAssembly.Module(WebAssembly.validate(fused) ? fused : assemble(write(false)));
    } catch (error) {
      if (error instanceof WebAssembly.CompileError) return null;  // SIMD, or forbidden
      throw error;
    }
  }

  /** The functions of `code` with a memory of their own. */
  function instance(code, bytes) {
    const pages = Math.ceil(bytes / 2 ** 16);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const { exports } = new WebAssembly.Instance(code, { page: { memory } });
    return { ...exports, buffer: memory.buffer, floats: new Float32Array(memory.buffer) };
  }

  root.tinygptWasm = {
    int, plus, times, four, fourOf, load, loadOne, store, add, minus, mul, plusWhole, shift,
    plusProduct, loop, func, compile, instance, source: `(${define})(globalThis);`,
  };
  if (typeof module !== "undefined" && module.exports) module.exports = root.tinygptWasm;
})(globalThis);
