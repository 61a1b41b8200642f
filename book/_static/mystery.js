/* Mystery runs: choose what is wrong with a run. book/mystery.py has put beside each run
   what is right and what to say to each wrong diagnosis; the fold below it explains. */
"use strict";
(() => {
  const boxes = [...document.querySelectorAll(".tinygpt-mystery")];
  const named = new Set();

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  for (const [i, box] of boxes.entries()) {
    const { right, names, replies } = JSON.parse(box.dataset.run);
    const fold = [...document.querySelectorAll("details.tinygpt-diagnosis")][i];
    const choice = make("select", {}, make("option", { value: "" }, "choose"),
      ...Object.entries(names).map(([key, name]) => make("option", { value: key }, name)));
    const label = make("label", {}, make("span", {}, `What is wrong with run ${i + 1}?`), choice);
    const button = make("button", { type: "button", "aria-label": `Diagnose run ${i + 1}` }, "Diagnose");
    const said = make("output", { "aria-live": "polite" });
    let tries = 0;

    function say(sentence, kind) {
      const tell = () => { said.textContent = sentence; said.className = kind; };
      if (said.textContent !== sentence) return tell();
      said.textContent = "";  // so that it is read out again
      setTimeout(tell, 100);
    }
    button.addEventListener("click", () => {
      if (!choice.value) return say("Choose a diagnosis first.", "");
      tries += 1;
      if (choice.value !== right) return say(replies[choice.value], "wrong");
      named.add(right);
      fold.open = true;
      const n = tries === 1 ? "the first try" : `try ${tries}`;
      say(`Right, at ${n}. The diagnosis below explains it. ` +
        `${named.size} of ${boxes.length} runs named.`, "right");
    });
    box.append(label, button, said);
  }
})();
