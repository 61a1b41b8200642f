/* The rows of a trained table as a map: what stands near what (chapter 02). */
"use strict";
tinygptWidgets.widgets.neighbours = (box, data) => {
  const { make, choice, canvas, title, task, spoken, visible } = tinygptWidgets;
  const { tokens, places, nearest } = data;  // nearest[i]: [place in tokens, cosine] pairs
  const W = 460, H = 380, svg = canvas(W, H), said = spoken();
  const order = tokens.map((_, i) => i).sort((a, b) => tokens[a].localeCompare(tokens[b]));
  const word = choice("token", order.map((i) => visible(tokens[i])), draw);
  word.value = Math.max(0, order.findIndex((i) => tokens[i] === (box.dataset.token ?? " dog")));
  const x = ([a]) => 30 + a * (W - 60), y = ([, b]) => 14 + b * (H - 28);

  function draw() {
    const now = order[word.value], near = new Set(nearest[now].map(([i]) => i));
    svg.replaceChildren(
      ...nearest[now].map(([i]) => make("line", { class: "link", x1: x(places[now]), y1: y(places[now]),
        x2: x(places[i]), y2: y(places[i]) })),
      ...order.map((i, at) => {
        const node = make("text", { x: x(places[i]), y: y(places[i]) + 4, "text-anchor": "middle",
          class: i === now ? "query" : near.has(i) ? "key" : "other" }, visible(tokens[i]));
        node.addEventListener("click", () => { word.value = at; draw(); });
        return node;
      }));
    const list = nearest[now].map(([i, cosine]) => `${visible(tokens[i])} (${cosine.toFixed(2)})`);
    said.textContent = `Nearest to “${visible(tokens[now])}” among these tokens, by cosine: ${list.join(", ")}.`;
    svg.setAttribute("aria-label", said.textContent);
  }
  box.append(title("Try it: the neighbours of a token"),
    task("Find a token whose neighbours you would have chosen yourself, and one whose neighbours surprise you."),
    word.label, svg, said);
  draw();
};
