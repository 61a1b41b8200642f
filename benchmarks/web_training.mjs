/* The sides of web_training.py that run in Node, in a process of its own each:

       node web_training.mjs SIDE SCRIPTS TOOLS < wishes, one line of JSON each

   A side is made of a model's sizes and one batch, and then takes steps of training on it:
   forward, backward, optimizer. What it leaves out: taking turns, PyTorch. */
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [, , name, scripts, tools] = process.argv;
const require = createRequire(join(tools, "package.json"));

/** Our engine, as the page runs it; without `simd` in plain loops. */
function ours({ model, train, simd }) {
  if (simd) for (const part of ["wasm", "train_simd"]) require(`${scripts}/tinygpt_${part}.js`);
  const T = require(`${scripts}/tinygpt_train.js`);
  const data = { train: new Int32Array(4096), val: new Int32Array(4096), tokenizer: { specialTokens: new Map(), bytes: [] } };
  const trainer = new T.Trainer(data, { model, train }, { simd });
  const { network, optimizer } = trainer;
  return {
    isFast: trainer.isFast,
    take(weights) {
      for (const { name, weight } of network.weights.values()) weight.set(weights[name]);
    },
    slope(ids, targets) {
      const loss = network.forward(ids, targets, 1 / ids.length) / ids.length;
      network.backward(ids);
      const length = optimizer.clip();
      for (const { gradient } of network.weights.values()) gradient.fill(0);
      return { loss, length };
    },
    step(ids, targets, n) {
      network.forward(ids, targets, 1 / ids.length);
      network.backward(ids);
      optimizer.step(n, 1);
    },
    /** FLOP/s of a bare product of two square matrices in our WebAssembly. */
    peak({ side, seconds }) {
      const { allocate, layers } = globalThis.tinygptTrainSimd.kernels(12 * side * side + 48, T.layers, T.compose);
      const [a, b, c] = [1, 2, 3].map(() => allocate(side * side));
      const product = () => layers.product(side, side, side, a, side, 1, b, side, 1, c, side);
      product();
      let n = 0;
      const from = performance.now();
      for (; performance.now() - from < 1000 * seconds; n++) product();
      return 2000 * n * side ** 3 / (performance.now() - from);
    },
  };
}

/** The same network in TensorFlow.js with Adam, which costs less than our Muon. Where its
    WebAssembly lacks what a gradient needs (the sum over equal ids), and where several of
    its steps can be one, the gradient is written by hand. */
async function tensorflow({ model, batch, backend }) {
  const tf = require("@tensorflow/tfjs");
  const wasm = require("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(join(tools, "node_modules/@tensorflow/tfjs-backend-wasm/dist/"));
  await tf.setBackend(backend);
  await tf.ready();
  const { vocab_size: V, context_length: T, d_model: C, n_heads: H, n_layers: L } = model;
  const D = C / H, N = batch * T, cap = model.logit_softcap, weights = {};
  const angles = Array.from({ length: T * D / 2 }, (_, i) =>
    Math.floor(i / (D / 2)) * 10000 ** (-2 * (i % (D / 2)) / D));
  const turn = (act) => tf.keep(tf.tensor(angles.map(act), [1, 1, T, D / 2]));
  const [cos, sin] = [turn(Math.cos), turn(Math.sin)];
  const hidden = tf.keep(tf.tensor(Array.from({ length: T * T }, (_, i) =>
    (i % T > Math.floor(i / T) ? -1e9 : 0)), [1, 1, T, T]));
  const adam = tf.train.adam(1e-3, 0.8, 0.98);

  const rms = (x, eps) => tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps)));
  const relu2 = tf.customGrad((x, save) => {
    const up = tf.relu(x);
    save([up]);
    return { value: tf.square(up), gradFunc: (dy, [kept]) => tf.mul(dy, tf.mul(kept, 2)) };
  });
  const embed = (list) => tf.customGrad((table) => ({
    value: tf.gather(table, tf.tensor1d(list, "int32")),
    gradFunc: (dy) => {
      const sum = new Float32Array(V * C), rows = dy.dataSync();
      list.forEach((id, n) => { for (let c = 0; c < C; c++) sum[id * C + c] += rows[n * C + c]; });
      return tf.tensor(sum, [V, C]);
    },
  }));
  const surprise = (list) => tf.customGrad((logits, save) => {
    const targets = tf.tensor1d(list, "int32"), shares = tf.softmax(logits);
    const chosen = tf.cast(tf.oneHot(targets, V), "float32");
    save([shares, chosen]);
    const value = tf.neg(tf.mean(tf.log(tf.sum(tf.mul(shares, chosen), -1))));
    return { value, gradFunc: (dy, [p, one]) => tf.mul(tf.sub(p, one), tf.div(dy, N)) };
  });
  const linear = (x, name) => tf.matMul(x, weights[`${name}.weight`], false, true);
  const heads = (x, part) => tf.transpose(
    tf.reshape(tf.slice(x, [0, part * C], [N, C]), [batch, T, H, D]), [0, 2, 1, 3]);
  const rotate = (x) => {
    const [first, second] = tf.split(x, 2, -1);
    return tf.concat([tf.sub(tf.mul(first, cos), tf.mul(second, sin)),
      tf.add(tf.mul(first, sin), tf.mul(second, cos))], -1);
  };

  function loss(ids, targets) {
    let x = rms(embed(ids)(weights["token_embedding.weight"]), 1e-5);
    for (let n = 0; n < L; n++) {
      const qkv = linear(rms(x, 1e-5), `blocks.${n}.attention.qkv`);
      const [q, k] = [0, 1].map((part) => rms(rotate(heads(qkv, part)), 2 ** -23));
      const scores = tf.add(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(D)), hidden);
      const mixed = tf.matMul(tf.softmax(scores), heads(qkv, 2));
      const rows = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [N, C]);
      x = tf.add(x, linear(rows, `blocks.${n}.attention.output`));
      const up = relu2(linear(rms(x, 1e-5), `blocks.${n}.feed_forward.input`));
      x = tf.add(x, linear(up, `blocks.${n}.feed_forward.output`));
    }
    const logits = linear(rms(x, 1e-5), "head");
    return surprise(targets)(tf.mul(tf.tanh(tf.div(logits, cap)), cap));
  }

  return {
    take(tables, shapes) {
      for (const [name, table] of Object.entries(tables)) {
        weights[name] = tf.variable(tf.tensor(table, shapes[name]), true, name);
      }
    },
    slope: (ids, targets) => tf.tidy(() => {
      const { value, grads } = tf.variableGrads(() => loss(ids, targets));
      const squares = Object.values(grads).map((g) => tf.sum(tf.square(g)).dataSync()[0]);
      return { loss: value.dataSync()[0], length: Math.sqrt(squares.reduce((a, b) => a + b)) };
    }),
    step: (ids, targets) => tf.tidy(() => {
      adam.minimize(() => loss(ids, targets));
      weights["head.weight"].dataSync();  // all of it is done
    }),
  };
}

const SIDES = { ours, tensorflow };
let side, ids, targets;

const acts = {
  async open({ options, weights, shapes, batch }) {
    side = await SIDES[name](options);
    side.take(weights, shapes);
    [ids, targets] = [batch.ids, batch.targets].map((list) => Int32Array.from(list));
    return { ...side.slope(ids, targets), isFast: side.isFast ?? null };
  },
  /** Tokens a second, of as many whole steps as `seconds` hold. */
  async train({ seconds }) {
    let n = 0;
    const from = performance.now();
    for (; n === 0 || performance.now() - from < 1000 * seconds; n++) side.step(ids, targets, n);
    return { speed: 1000 * n * ids.length / (performance.now() - from) };
  },
  async peak(given) { return { speed: side.peak(given) }; },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { act, ...given } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await acts[act](given))}\n`);
}
