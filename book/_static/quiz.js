/* Makes the quiz of a page answer. book/asked.py has put each question into
     <div class="tinygpt-question" data-right="B">          choices, or
     <div class="tinygpt-question" data-number="8" data-tolerance="0.05">
   with the question, its list of choices and the fold with the answer inside. The fold
   stays, for whoever gives up; what is said to a wrong choice is its item in that fold. */
"use strict";
(() => {
  const boxes = [...document.querySelectorAll(".tinygpt-question")];
  const right = new Set(), first = new Set(), tried = new Set();

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const score = make("p", { class: "tinygpt-score", role: "status" });
  function count() {
    const all = right.size === boxes.length;
    score.textContent = `${right.size} of ${boxes.length} right, ${first.size} at the first try.`
      + (all ? " That was all of them." : "");
  }

  /** "1,200", "1 200", "-0.5" and "0,5" as numbers; NaN for anything else. */
  function read(text) {
    const bare = text.trim().replaceAll(/\s/g, "").replace("−", "-");
    const grouped = /^-?\d{1,3}(,\d{3})+(\.\d+)?$/.test(bare);
    const plain = grouped ? bare.replaceAll(",", "") : bare.replace(",", ".");
    return /^-?(\d+\.?\d*|\.\d+)$/.test(plain) ? Number(plain) : NaN;
  }

  /** A copy of what an element says, without the mark that it begins with. */
  function copy(element, mark) {
    const twin = element.cloneNode(true);
    const walker = document.createTreeWalker(twin, NodeFilter.SHOW_TEXT);
    let left = mark.length;
    while (left && walker.nextNode()) {
      const text = walker.currentNode, cut = Math.min(left, text.data.length);
      text.data = text.data.slice(cut);
      left -= cut;
    }
    return twin.childNodes;
  }

  function question(box, index) {
    const { right: letter, number, tolerance } = box.dataset;
    const asked = box.querySelector("p");
    asked.id ||= `question-${index + 1}`;
    box.setAttribute("role", "group");
    box.setAttribute("aria-labelledby", asked.id);
    const fold = box.querySelector("details");
    const reason = fold.querySelector(":scope > p");
    const items = [...fold.querySelectorAll("li")].map((item) => {
      const mark = item.textContent.trimStart().split(":")[0];
      return { mark, element: item.querySelector("p") ?? item };
    });
    const said = make("output", { class: "verdict", "aria-live": "polite" });
    const form = make("form", { novalidate: "" });
    const list = box.querySelector(":scope > ul");
    let given;

    if (letter) {
      for (const [i, item] of [...list.children].entries()) {
        const text = item.querySelector("p") ?? item;
        const value = "ABCDE"[i];
        const input = make("input", { type: "radio", name: `question-${index + 1}`, value });
        const label = make("label", {}, input, make("span", {}, ...text.childNodes));
        text.append(label);
      }
      list.before(form);
      form.append(list);
      given = () => form.querySelector("input:checked")?.value;
    } else {
      const input = make("input", { type: "text", inputmode: "decimal", autocomplete: "off" });
      const hint = box.querySelectorAll(":scope > p")[1];
      hint.before(form);
      form.append(hint, make("label", {}, "Your number: ", input));
      given = () => input.value;
    }
    form.append(make("button", { type: "submit" }, "Check"));
    fold.before(form, said);

    /** Say whether it is right, and why or why not. */
    function judge(is, ...why) {
      if (is && !tried.has(box)) first.add(box);
      tried.add(box);
      if (is) right.add(box);
      box.dataset.now = is ? "right" : "wrong";
      said.replaceChildren(make("strong", {}, is ? "Right." : "Not yet."), " ", ...why);
      count();
    }

    function ask(sentence) {
      delete box.dataset.now;
      said.textContent = sentence;
    }

    const mark = reason.querySelector("strong").textContent;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const answer = given();
      if (letter) {
        if (!answer) return ask("Choose an answer first.");
        if (answer === letter) return judge(true, ...copy(reason, mark));
        return judge(false, ...copy(items.find((i) => i.mark === answer).element, `${answer}:`));
      }
      const value = read(answer);
      if (Number.isNaN(value)) return ask("Write a number, such as 0.5 or 1200.");
      const near = (target, by) => Math.abs(value - target) <= by * (1 + 1e-9) + 1e-12;
      if (near(Number(number), Number(tolerance))) return judge(true, ...copy(reason, mark));
      const known = items.find((i) => near(read(i.mark), Number(tolerance)));
      if (known) return judge(false, ...copy(known.element, `${known.mark}:`));
      return judge(false, value < Number(number) ? "It is more." : "It is less.");
    });
  }

  boxes.forEach(question);
  boxes.at(-1).after(score);
  score.textContent = `${boxes.length} questions.`;
})();
