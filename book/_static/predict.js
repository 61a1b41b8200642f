/* Asks for a guess before an output. book/asked.py has put into a box
     <div class="tinygpt-guess" data-name="tokens" data-answer="12" data-low="5"
          data-high="50" data-unit="tokens">                   a number on a slider,
   without a range a choice of the box's list or, without a list, a token; around what
   waits for the guess, <div class="tinygpt-outcome" data-of="tokens">; and at the end of
   the chapter <div class="tinygpt-guesses">. Answers come from the stored run. Guesses
   stay in this browser, or on this page where it refuses to keep them. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const KEY = "tinygpt-guesses";
  const CLOSE = 0.1;  // of the slider's length
  const places = [...document.querySelectorAll(".tinygpt-guess")];
  const end = document.querySelector(".tinygpt-guesses");

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // --- What was guessed, by name ----------------------------------------------------

  let guesses = {}, kept = true;
  function load() {
    try {
      const found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
      guesses = found && typeof found === "object" && !Array.isArray(found) ? found : {};
    } catch (error) {
      kept = !(error instanceof DOMException);  // refused; else what is there is no JSON
    }
  }
  function save() {
    try {
      localStorage.setItem(KEY, JSON.stringify(guesses));
    } catch {
      kept = false;  // refused or full: `summary` says so
    }
  }

  // --- One prediction ---------------------------------------------------------------

  const tidy = (token) => token.replaceAll("␣", " ").trim().toLowerCase();

  /** A step of 1, 2 or 5 times a power of ten, about a hundred to the slider. */
  function step(low, high) {
    const wish = (high - low) / 100, ten = 10 ** Math.floor(Math.log10(wish));
    const found = [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= wish * 0.999);
    return Number(found.toPrecision(1));
  }

  function prediction(place, index) {
    const { name, answer, low, high, unit } = place.dataset;
    const box = place.closest(".admonition");
    const asked = [...box.querySelectorAll("p:not(.admonition-title)")][0];
    box.id ||= `guess-${index + 1}`;
    asked.id ||= `${box.id}-asked`;
    const list = low ? null : box.querySelector("ul");
    const outcomes = [...document.querySelectorAll(`.tinygpt-outcome[data-of="${name}"]`)];
    const said = make("output", { class: "verdict", "aria-live": "polite" });
    const form = make("form", { novalidate: "" });
    const told = (value) => unit === "%" ? `${value} %` : `${value}${unit ? ` ${unit}` : ""}`;
    const waits = make("p", { class: "tinygpt-waits" },
      "What comes out here waits for ", make("a", { href: `#${box.id}` }, "your guess"), ".");
    let given, put;

    if (low) {
      const by = step(Number(low), Number(high));
      const middle = Number(low) + Math.round((high - low) / by / 2) * by;
      const input = make("input", { type: "range", min: low, max: high, step: by });
      const words = make("span", { "aria-hidden": "true" });
      const show = () => {
        words.textContent = told(input.value);
        input.setAttribute("aria-valuetext", words.textContent);
      };
      put = (value) => { input.value = value; show(); };
      put(middle);
      input.addEventListener("input", show);
      form.append(make("label", {}, "Your guess: ", input, words));
      given = () => input.value;
    } else if (list) {
      const inputs = [...list.children].map((item) => {
        const text = item.querySelector("p") ?? item;
        const value = text.textContent.trim();
        const input = make("input", { type: "radio", name: `guess-${index + 1}`, value });
        text.append(make("label", {}, input, make("span", {}, ...text.childNodes)));
        return input;
      });
      form.append(list);
      given = () => inputs.find((input) => input.checked)?.value;
      put = (value) => { for (const input of inputs) input.checked = input.value === value; };
    } else {
      const input = make("input", { type: "text", autocomplete: "off", spellcheck: "false" });
      form.append(make("label", {}, "Your guess: ", input));
      given = () => input.value.trim();
      put = (value) => { input.value = value; };
    }
    const submit = make("button", { type: "submit" }, "Guess and see");
    const skip = make("button", { type: "button" }, "Show it anyway");
    form.append(make("p", { class: "acts" }, submit, skip));
    form.setAttribute("aria-labelledby", asked.id);
    place.append(form, said);

    /** How far a guess is from the run: 0 is right, 1 as wrong as can be. */
    function off(guess) {
      if (low) return Math.abs(guess - answer) / (high - low);
      return list ? Number(guess !== answer) : Number(tidy(guess) !== tidy(answer));
    }

    function words(guess) {
      if (!off(guess)) return `Right: ${told(answer)}.`;
      if (!low) return `You guessed ${guess}; it is ${answer}.`;
      const much = Number(Math.abs(guess - answer).toPrecision(3));
      const side = Number(guess) > Number(answer) ? "too high" : "too low";
      const close = off(guess) <= CLOSE ? "Close: you" : "You";
      return `${close} guessed ${told(guess)}; it is ${told(answer)}, so ${much} ${side}.`;
    }

    const open = () => outcomes.every((outcome) => !outcome.hasAttribute("hidden"));
    function cover() {
      for (const outcome of outcomes) {
        outcome.setAttribute("hidden", "until-found");  // the browser's search opens it
        outcome.addEventListener("beforematch", () => uncover("Shown by a search."));
      }
      outcomes[0].before(waits);
      for (const button of [submit, skip]) button.removeAttribute("aria-disabled");
      said.textContent = "";
    }
    function uncover(sentence) {
      for (const outcome of outcomes) outcome.removeAttribute("hidden");
      waits.remove();
      // Still in the tab order, so that nobody who pressed one is thrown to the top.
      for (const button of [submit, skip]) button.setAttribute("aria-disabled", "true");
      said.textContent = sentence;
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (open()) return;
      const guess = given();
      if (!guess) {
        said.textContent = "Make a guess first, or show it anyway.";
        return;
      }
      guesses[name] = guess;
      save();
      uncover(words(guess));
      summary();
    });
    skip.addEventListener("click", () => {
      if (!open()) uncover("Shown without a guess.");
    });

    const usable = (guess) => typeof guess === "string"
      && (!low || (Number(guess) >= Number(low) && Number(guess) <= Number(high)));
    function start() {
      cover();
      if (!usable(guesses[name])) return;
      put(guesses[name]);
      uncover(words(guesses[name]));
    }
    return { name, box, asked, answer, low, told, off, start, usable };
  }

  // --- How well the guesses of a chapter fit ----------------------------------------

  function verdict(made) {
    const good = made.filter(({ one, guess }) => one.off(guess) <= CLOSE).length;
    const words = [`You guessed ${made.length} of ${all.length}. Right, or off by less than `
      + `a tenth of the scale: ${good} of ${made.length}.`];
    const ranged = made.filter(({ one }) => one.low);
    if (ranged.length) {
      const mean = ranged.reduce((sum, { one, guess }) => sum + one.off(guess), 0) / ranged.length;
      const above = ranged.filter(({ one, guess }) => Number(guess) > Number(one.answer)).length;
      const below = ranged.filter(({ one, guess }) => Number(guess) < Number(one.answer)).length;
      const side = above > below ? ", mostly too high" : below > above ? ", mostly too low" : "";
      words.push(`Your numbers are off by ${Math.round(100 * mean)} % of the scale on `
        + `average${side}.`);
    }
    return words.join(" ");
  }

  function summary() {
    const made = all.filter((one) => one.usable(guesses[one.name]))
      .map((one) => ({ one, guess: guesses[one.name] }));
    end.replaceChildren();
    if (!made.length) return;
    const row = ({ one, guess }) => make("tr", {},
      make("td", {}, make("a", { href: `#${one.box.id}` }, one.asked.textContent.trim())),
      make("td", {}, one.low ? one.told(guess) : guess),
      make("td", {}, one.low ? one.told(one.answer) : one.answer));
    const head = ["asked", "your guess", "the run"]
      .map((text) => make("th", { scope: "col" }, text));
    const forget = make("button", { type: "button" }, "Forget these guesses");
    forget.addEventListener("click", () => {
      for (const one of all) delete guesses[one.name];
      save();
      for (const one of all) one.start();
      summary();
      end.append(make("p", { role: "status", tabindex: "-1" }, "Forgotten: the outputs wait again."));
      end.lastChild.focus();
    });
    end.append(make("p", { class: "title" }, "How well you guessed"),
      make("p", {}, verdict(made)),
      make("table", {}, make("thead", {}, make("tr", {}, ...head)),
        make("tbody", {}, ...made.map(row))), forget);
    if (!kept) {
      end.append(make("p", {}, "This browser keeps nothing for this page, so your guesses "
        + "are forgotten when you leave it."));
    }
  }

  load();
  const all = places.map(prediction);
  for (const one of all) one.start();
  summary();
});
