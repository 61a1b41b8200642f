/* Attention with a pencil: one query, three keys, three values, all editable (chapter 04). */
"use strict";
tinygptWidgets.widgets.pencil = (box) => {
  const { make, number, title, task, spoken, written, fixed, softmax } = tinygptWidgets;
  const names = ["dog", "bone", "it"];
  const field = (name, value) => number(name, value, draw);
  const both = (what, [a, b]) => [field(`${what}, first number`, a), field(`${what}, second number`, b)];
  const query = both("query of it", [2, 0]);
  const keys = [[2, 1], [0, 2], [1, -1]].map((key, i) => both(`key of ${names[i]}`, key));
  const values = [[3, 1], [0, 2], [1, 1]].map((value, i) => both(`value of ${names[i]}`, value));
  const cells = names.map(() => [0, 1, 2, 3].map(() => make("td")));
  const said = spoken();

  function draw() {
    const q = query.map((f) => f.value);
    const dots = keys.map((key) => key[0].value * q[0] + key[1].value * q[1]);
    const scores = dots.map((dot) => dot / Math.SQRT2);
    const weights = softmax(scores);
    cells.forEach((row, i) => [fixed(dots[i], 1), fixed(scores[i]), written(Math.exp(scores[i])),
      fixed(weights[i])].forEach((words, n) => { row[n].textContent = words; }));
    const mixed = [0, 1].map((n) => weights.reduce((sum, w, i) => sum + w * values[i][n].value, 0));
    const terms = weights.map((w, i) =>
      `${fixed(w)} × (${values[i].map((f) => written(f.value)).join(", ")})`);
    said.textContent = `The new vector of “it”: ${terms.join(" + ")} = (${mixed.map((v) => fixed(v)).join(", ")}).`;
  }
  const pair = (fields) => make("td", { class: "pair" }, ...fields.map((f) => f.input));
  const head = ["key", "value", "q · k", "/ √2", "e^score", "weight"];
  box.append(title("Try it: attention with a pencil that calculates"),
    task("Change the query so that “it” listens mostly to the bone. Then make it listen to both alike."),
    make("p", {}, "query of it: ", ...query.map((f) => f.input)),
    make("div", { class: "scrolls" }, make("table", {},
      make("caption", {}, "Compare, scale, softmax"),
      make("thead", {}, make("tr", {}, make("td"),
        ...head.map((name, i) => make("th", { scope: "col", class: i < 2 ? "pair" : "" }, name)))),
      make("tbody", {}, ...names.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name),
        pair(keys[i]), pair(values[i]), ...cells[i]))))), said);
  draw();
};
