/* A run made beforehand, drawn through time: what its model writes at each moment, what it
   would say after each block, which tokens are neighbours, whom its heads attend to. All of
   it is computed here, in a worker, from the weights of that moment in 8 bits, by the parts
   of the page "Train your own". What it leaves out: training. */
"use strict";
(() => {
  const { widgets, make, title, fixed, fetchScript } = window.tinygptWidgets;
  const here = document.currentScript.src;
  const PARTS = ["tinygpt", "tinygpt_look", "train_worker", "train_parts"];

  widgets.moments = async (box, data) => {
    for (const name of ["playground", "train"]) {
      const href = new URL(`../${name}.css`, here).href;
      document.head.append(make("link", { rel: "stylesheet", href }));
    }
    for (const name of PARTS) await fetchScript(`../${name}`);
    const { history, makeWorker } = globalThis.tinygptTrainParts;
    const worker = makeWorker(["TinyGPT", "tinygptLook", "tinygptTrainWorker"]);
    const bits = ({ bits }) => `, ${fixed(bits)} bits per byte`;
    const past = history((wish) => worker.postMessage(wish), (n) => bits(data.states[n]));
    const drawn = new Promise((done) => {
      worker.onmessage = ({ data: told }) => {
        if (told.kind === "looked") past.looked(told);
        else if (told.kind === "error") past.failed(told.sentence);
        else return;
        done();
      };
      worker.onerror = () => {
        past.failed("This browser cannot run the model: the picture stays empty.");
        done();
      };
    });
    worker.postMessage({ kind: "moments", ...data });
    const room = make("div", { class: "tinygpt-train tinygpt-playground" }, past.room);
    box.append(title("Try it: one run through time"), room);
    past.begin({ states: data.states.map(({ step }) => step) }, data.config);
    past.suggest(data.prompt);
    past.last();
    await drawn;
  };
})();
