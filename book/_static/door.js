/* Fetches a page's scripts when a reader comes near what they serve: an element with
   data-script="quiz" asks for quiz.js beside this file, once for the page. Without
   scripts, and until then, everything is there to read as plain folds. */
"use strict";
(() => {
  const here = document.currentScript.src;
  const asked = new Set();

  function fetchFor(element) {
    const name = element.dataset.script;
    if (asked.has(name)) return;
    asked.add(name);
    const script = document.createElement("script");
    script.src = new URL(`${name}.js`, here).href;
    document.head.append(script);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const watcher = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) {
        if (!isIntersecting) continue;
        watcher.unobserve(target);
        fetchFor(target);
      }
    }, { rootMargin: "800px 0px" });  // about a screen ahead
    for (const element of document.querySelectorAll("[data-script]")) watcher.observe(element);
  });
})();
