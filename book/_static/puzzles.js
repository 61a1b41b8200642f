/* The exercises' puzzles: put the lines in order, by mouse, finger or keyboard.
   book/puzzles.py puts a puzzle's data into its fold, whose plain list of lines stays for
   paper. Nothing is run here: what is said of an answer is what `check_answer` said. */
"use strict";
(() => {
  const STEP = 4;  // spaces of indentation, as in puzzles.py
  const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /** What Python would say before it ran these lines; the twin of `fits` in puzzles.py. */
  function misfit(lines) {
    const known = new Set();
    let opened = false, deepest = 0, ended = 0;
    for (const [i, line] of lines.entries()) {
      const depth = (line.code.length - line.code.trimStart().length) / STEP;
      if (opened && depth !== deepest + 1) {
        return `Line ${i + 1} must be indented: it follows a colon.`;
      }
      if (!opened && depth > deepest) {
        return `Line ${i + 1} is indented, but no colon opens a block above it.`;
      }
      if (ended) return `Line ${i + 1} would never run: line ${ended} returns before it.`;
      const missing = line.needs.find((name) => !known.has(name));
      if (missing) return `Line ${i + 1} uses ${missing}, which no line above it makes.`;
      for (const name of line.makes) known.add(name);
      [opened, deepest] = [line.code.endsWith(":"), depth];
      ended = line.code.startsWith("return") ? i + 1 : 0;
    }
    return opened ? "The last line opens a block that has no lines." : "";
  }

  /** What to say of an answer, a list of the lines' numbers. */
  function judge({ lines, right, hints }, answer) {
    if (answer.length === 0) return [false, "Your program has no lines yet."];
    if (right.some((one) => same(one, answer))) {
      return [true, "Right: these lines pass the exercise's checks."];
    }
    const told = (sentence) => [false, `Not yet: ${sentence}`];
    const exact = hints.find(([one]) => same(one, answer));
    if (exact) return told(exact[1]);
    // A wrong line first: its order does not matter.
    const wrong = answer.find((i) => !right[0].includes(i));
    if (wrong !== undefined) {
      return told(hints.find(([one]) => one.includes(wrong))[1]);
    }
    const left = right[0].length - answer.length;
    if (left === 1) return told("one line is missing.");
    if (left > 1) return told(`${left} lines are missing.`);
    return told(misfit(answer.map((i) => lines[i])));
  }

  function play(fold) {
    const puzzle = JSON.parse(fold.dataset.puzzle);
    const name = puzzle.head.slice("def ".length).split("(")[0];
    const said = make("output", { "aria-live": "polite" });
    const list = (label, kind) => make("ol", { class: kind, "aria-label": label });
    const pool = list("Lines to choose from", "pool");
    const program = list(`Your program, below ${puzzle.head}`, "program");

    const inProgram = (item) => item.parentNode === program;
    const place = (item) => [...item.parentNode.children].indexOf(item) + 1;
    const code = (item) => puzzle.lines[item.dataset.line].code.trim();
    const news = (item) => `${code(item)} is ` + (inProgram(item)
      ? `now line ${place(item)} of ${program.children.length}.`
      : "back among the lines to choose from.");
    function say(sentence, kind = "") {
      said.textContent = sentence;
      said.className = kind;
    }

    function settle(item, focus) {
      item.querySelector(".verb").textContent = inProgram(item) ? "Put back: " : "Take: ";
      if (focus) focus.focus();
    }
    function move(item, list, before, focus) {
      const [from, was] = [item.parentNode, place(item)];
      list.insertBefore(item, before);
      settle(item, focus);
      if (from === list && was === place(item)) return;
      say(news(item));
    }
    function step(item, by, focus) {
      const items = [...program.children], to = place(item) - 1 + by;
      if (to < 0 || to >= items.length) {
        say(`${code(item)} is already the ${by < 0 ? "first" : "last"} line.`);
      } else {
        move(item, program, by < 0 ? items[to] : items[to].nextSibling, focus);
      }
    }

    function line(i) {
      const whole = puzzle.lines[i].code;
      const take = make("button", { type: "button", class: "take" },
        make("span", { class: "verb visually-hidden" }), make("code", {}, whole.trim()));
      const up = make("button", { type: "button", class: "up" }, "↑");
      const down = make("button", { type: "button", class: "down" }, "↓");
      const grip = make("span", { class: "grip", "aria-hidden": "true" }, "⠿");
      const item = make("li", { "data-line": i }, grip, take, up, down);
      item.style.setProperty("--depth", (whole.length - whole.trimStart().length) / STEP);
      up.setAttribute("aria-label", `Move up: ${whole.trim()}`);
      down.setAttribute("aria-label", `Move down: ${whole.trim()}`);
      take.addEventListener("click", () => {
        if (item.dataset.dragged) return;  // the end of a drag is no click
        move(item, inProgram(item) ? pool : program, null, take);
      });
      up.addEventListener("click", () => step(item, -1, up));
      down.addEventListener("click", () => step(item, 1, down));
      item.addEventListener("keydown", (event) => {
        const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (!by || !inProgram(item)) return;
        event.preventDefault();
        step(item, by, event.target);
      });
      draggable(item, grip);
      return item;
    }

    /** A mouse drags a line by any part of it, a finger by its grip: else it scrolls. */
    function draggable(item, grip) {
      item.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || event.target.closest(".up, .down")) return;
        if (event.pointerType !== "mouse" && event.target !== grip) return;
        const from = [event.clientX, event.clientY];
        const [home, next] = [item.parentNode, item.nextSibling];
        delete item.dataset.dragged;
        const drag = ({ clientX, clientY }) => {
          if (!item.dataset.dragged) {
            if (Math.hypot(clientX - from[0], clientY - from[1]) < 6) return;
            item.dataset.dragged = "yes";
          }
          const over = [program, pool].find((one) => {
            const box = one.getBoundingClientRect();
            return clientX >= box.left && clientX <= box.right
              && clientY >= box.top && clientY <= box.bottom;
          });
          if (!over) return;
          const below = [...over.children].find((other) => {
            const box = other.getBoundingClientRect();
            return other !== item && clientY < box.top + box.height / 2;
          });
          if (over !== item.parentNode || (below || null) !== item.nextSibling) {
            over.insertBefore(item, below || null);
            settle(item);
          }
        };
        const stop = (end) => {
          document.removeEventListener("pointermove", drag);
          document.removeEventListener("pointerup", stop);
          document.removeEventListener("pointercancel", stop);
          if (!item.dataset.dragged) return;
          if (end.type === "pointercancel") home.insertBefore(item, next);
          const [to, before] = [item.parentNode, item.nextSibling];
          if (to !== home || before !== next) say(news(item));
          settle(item);
          setTimeout(() => delete item.dataset.dragged);  // after the click, if one comes
        };
        document.addEventListener("pointermove", drag);
        document.addEventListener("pointerup", stop);
        document.addEventListener("pointercancel", stop);
      });
    }

    const items = puzzle.lines.map((_, i) => line(i));
    const check = make("button", { type: "button", class: "check" }, "Check");
    const again = make("button", { type: "button", class: "again" }, "Start again");
    check.addEventListener("click", () => {
      const answer = [...program.children].map((item) => Number(item.dataset.line));
      const [right, sentence] = judge(puzzle, answer);
      const tell = () => say(sentence, right ? "right" : "wrong");
      if (said.textContent !== sentence) return tell();
      say("");  // so that the same sentence is read out again
      setTimeout(tell, 100);
    });
    again.addEventListener("click", () => {
      pool.append(...items);
      items.forEach((item) => settle(item));
      say("All lines are back.");
    });
    pool.append(...items);
    items.forEach((item) => settle(item));

    fold.append(make("div", { class: "puzzle", role: "group", "aria-label": `Puzzle: ${name}` },
      make("p", { class: "how" }, "Press a line to take it into your program or to put it " +
        "back; move it there with the arrows. Or drag it."),
      make("div", { class: "lists" },
        make("div", {}, make("p", { class: "list-title" }, "Lines to choose from"), pool),
        make("div", {}, make("p", { class: "list-title" }, "Your program"),
          make("code", { class: "head" }, puzzle.head), program)),
      check, again, said));
    fold.classList.add("live");
  }

  for (const fold of document.querySelectorAll(".tinygpt-puzzle")) {
    const start = () => { if (fold.open && !fold.matches(".live")) play(fold); };
    fold.addEventListener("toggle", start);
    start();
  }
})();
