/* A word grows out of its letters, merge by merge (chapter 01). */
"use strict";
tinygptWidgets.widgets.merges = (box, data) => {
  const { make, slider, choice, title, task, spoken, visible } = tinygptWidgets;
  const word = choice("word", data.map(({ steps }) => visible(steps[0].join(""))), fresh);
  const chips = make("p", { class: "chips" }), said = spoken();
  const holder = make("div");
  let at;

  function fresh() {
    const n = data[word.value].steps.length - 1;
    at = slider("merges done", { min: 0, max: n, step: 1, value: 0 }, (i) => `${i} of ${n}`, draw);
    holder.replaceChildren(at.label);
    draw();
  }
  function draw() {
    const { steps, ranks } = data[word.value], i = at.value;
    const now = steps[i], joined = i ? steps[i - 1] : now;
    chips.replaceChildren(...now.map((piece) => make("span", {
      class: joined.includes(piece) ? "chip" : "chip now" }, visible(piece))));
    const new_ = i && now.find((piece) => !joined.includes(piece));
    said.textContent = i === 0
      ? `${now.length} bytes, and no merge yet.`
      : `Merge number ${ranks[i - 1].toLocaleString("en")} of the vocabulary makes “${visible(new_ || "")}”: ` +
        `${now.length} ${now.length === 1 ? "token" : "tokens"}.`;
  }
  box.append(title("Try it: merge by merge"),
    task("Which merge comes first, and why must it have a lower number than the ones after it?"),
    word.label, holder, chips, said);
  fresh();
};
