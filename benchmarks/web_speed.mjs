/* One side of web_speed.py, in a Web Worker of its own: opens a model and writes greedily.
   Every side is a function `next(ids)`: the logits after the newest `ids`, where an empty
   start forgets the text. What it leaves out: timing the page and choosing the sides. */
"use strict";

/** Our model, as the page runs it; without `simd` in plain JavaScript only. */
async function tinygpt({ model: url, simd }) {
  if (simd) for (const name of ["wasm", "simd"]) await import(`./tinygpt_${name}.js`);
  for (const name of ["tinygpt", "tinygpt_web"]) await import(`./${name}.js`);
  const { model } = globalThis.TinyGPT.readModel(await (await fetch(url)).arrayBuffer());
  const cache = model.newCache();
  return (ids, fresh) => {
    if (fresh) cache.length = 0;
    return model.nextLogits(ids, cache);
  };
}

/** An ONNX model in onnxruntime-web. `form` says who keeps the past:
    "new rows": the page; the model gives back the newest keys and values [1, ...] only.
    "whole past": the model takes the past and gives it back longer by one token.
    "no cache": nobody; every token is computed anew for every new one. */
async function onnxruntime({ model: url, form, threads, shape, room }) {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(url, {
    executionProviders: ["wasm"], graphOptimizationLevel: "all",
  });
  const tensor = (data, dims) => new ort.Tensor(
    data instanceof Float32Array ? "float32" : "int64", data, dims);
  const row = shape.reduce((a, b) => a * b);  // numbers kept per token
  const kept = new Float32Array(room * row);
  let text = [], past = tensor(kept.subarray(0, 0), [0, ...shape]);
  return async (ids, fresh) => {
    if (fresh) {
      text = [];
      past = tensor(kept.subarray(0, 0), [0, ...shape]);
    }
    if (form === "no cache") {
      text.push(...ids);
      const whole = tensor(BigInt64Array.from(text, BigInt), [1, text.length]);
      return (await session.run({ ids: whole })).logits.data;
    }
    let logits;
    for (const id of ids) {
      const place = text.length;
      text.push(id);
      const result = await session.run({
        ids: tensor(BigInt64Array.of(BigInt(id)), [1, 1]),
        position: tensor(BigInt64Array.of(BigInt(place)), [1]),
        past,
      });
      logits = result.logits.data;
      if (form === "whole past") past = result.present;
      else {
        kept.set(result.present.data, place * row);
        past = tensor(kept.subarray(0, (place + 1) * row), [place + 1, ...shape]);
      }
    }
    return logits;
  };
}

function argmax(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

const SIDES = { tinygpt, onnxruntime };
let next;

const acts = {
  /** Open the model and choose the first token. */
  async open({ side, prompt, ...options }) {
    next = await SIDES[side](options);
    return { first: argmax(await next(prompt, true)) };
  },
  /** Write `n` tokens after the prompt, again and again for `seconds`; the prompt's own
      time does not count. */
  async write({ prompt, n, seconds }) {
    let spent = 0, tokens = 0, ids;
    while (spent < 1000 * seconds) {
      ids = [];
      let logits = await next(prompt, true);
      const start = performance.now();
      for (let i = 0; i < n; i++) {
        ids.push(argmax(logits));
        logits = await next(ids.slice(-1), false);
      }
      spent += performance.now() - start;
      tokens += n;
    }
    return { ids, speed: 1000 * tokens / spent };
  },
};

globalThis.onmessage = async ({ data: { act, ...given } }) => {
  try {
    postMessage(await acts[act](given));
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
