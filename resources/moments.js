/* Make the run that chapter 07 shows through time: book/_static/widgets/moments_stories.js.

       node resources/moments.js

   It is a run of the page "Train your own", by the same scripts, on data/stories.txt with
   the seed of every run there; only the sizes are smaller, so that nine states of it in 8
   bits stay below three megabytes. It takes some minutes. What it leaves out: drawing (see
   widgets/moments.js). */
"use strict";
const fs = require("fs"), path = require("path");
const root = path.join(__dirname, ".."), scripts = path.join(root, "book", "_static");
for (const name of ["wasm", "train_simd"]) require(`${scripts}/tinygpt_${name}.js`);
const T = require(`${scripts}/tinygpt_train.js`);

const VOCABULARY = 1024, STEPS = 1500, MOMENTS = [0, 5, 15, 50, 150, 400, 800, 1200, STEPS];
const SIZES = { d_model: 64, n_layers: 2, n_heads: 4, context_length: 64 };

const data = T.prepare(T.readText(fs.readFileSync(`${root}/data/stories.txt`)), { vocabSize: VOCABULARY });
const plan = T.plan(data, { minutes: 5, speed: 2e9, sizes: SIZES, steps: STEPS });
const trainer = T.createTrainer(data, plan), states = [];
const base64 = (table) => Buffer.from(table.buffer).toString("base64");
for (const moment of MOMENTS) {
  while (trainer.steps < moment) trainer.step();
  const { bitsPerByte } = trainer.evaluate({ windows: "all" });
  const { step, values, scales } = trainer.snapshot();
  states.push({ step, bits: Number(bitsPerByte.toFixed(3)), values: base64(values), scales: base64(scales) });
  console.log(step, bitsPerByte.toFixed(3), JSON.stringify(trainer.sample({ prompt: "Once upon a time" }).text));
}
const told = {
  config: plan.model, tokenizer: T.describe(data.tokenizer), prompt: "The dog was very",
  bigram: Number(data.bigram.toFixed(3)), states,
};
fs.writeFileSync(`${scripts}/widgets/moments_stories.js`,
  "// Written by resources/moments.js.\n" +
  `window.tinygptWidgets.data.moments_stories = ${JSON.stringify(told)};\n`);
