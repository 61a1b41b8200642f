/* A matrix product, one dot product at a time (the page on the two tools). */
"use strict";
tinygptWidgets.widgets.product = (box) => {
  const { make, number, title, task, spoken, written } = tinygptWidgets;
  const grid = (name, rows) => rows.map((row, i) => row.map((value, j) =>
    number(`${name}, row ${i + 1}, column ${j + 1}`, value, draw)));
  const first = grid("first matrix", [[2, 1], [0, 3]]);
  const second = grid("second matrix", [[3, -1, 1], [1, 2, 0]]);
  let [row, column] = [0, 0];
  const said = spoken();
  const result = first.map((_, i) => second[0].map((__, j) => {
    const cell = make("button", { type: "button" });
    for (const event of ["pointerenter", "focus", "click"])
      cell.addEventListener(event, () => { [row, column] = [i, j]; draw(); });
    return cell;
  }));

  function draw() {
    const dot = (i, j) => first[i].reduce((sum, f, n) => sum + f.value * second[n][j].value, 0);
    result.forEach((cells, i) => cells.forEach((cell, j) => {
      cell.textContent = written(dot(i, j));
      cell.setAttribute("aria-label",
        `result, row ${i + 1}, column ${j + 1}: ${written(dot(i, j))}`);
      cell.classList.toggle("now", i === row && j === column);
    }));
    first.forEach((cells, i) => cells.forEach((f) => f.input.classList.toggle("now", i === row)));
    second.forEach((cells) => cells.forEach((f, j) => f.input.classList.toggle("now", j === column)));
    const terms = first[row].map((f, n) => `${written(f.value)} · ${written(second[n][column].value)}`);
    said.textContent = `Row ${row + 1} times column ${column + 1}: ${terms.join(" + ")} = ${written(dot(row, column))}.`;
  }
  const matrix = (name, rows) => make("div", { class: "matrix", role: "group", "aria-label": name,
    style: `grid-template-columns: repeat(${rows[0].length}, auto)` }, ...rows.flat());
  box.append(title("Try it: rows times columns"),
    task("Change one number so that the 6 becomes 12. Which other results change with it, and why these?"),
    make("div", { class: "matrices" },
      matrix("first matrix", first.map((cells) => cells.map((f) => f.input))),
      matrix("second matrix", second.map((cells) => cells.map((f) => f.input))),
      make("span", {}, "="), matrix("result", result)), said);
  draw();
};
