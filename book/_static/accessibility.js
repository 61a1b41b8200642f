/* Cures what axe-core finds in the theme and in pandas' tables, hides the buttons that
   need a network while there is none, and prints dark on white. Runs once per page. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  // These say one thing and are named another: let their text name them.
  const misnamed = "button.search-button-field, .theme-switch-button, .cell summary";
  for (const control of document.querySelectorAll(misnamed)) {
    control.removeAttribute("aria-label");
    if (!control.textContent.trim()) {  // an icon that is yet to come: Light, Dark
      const name = document.createElement("span");
      name.className = "visually-hidden";
      name.textContent = "Colour mode: ";
      control.prepend(name);
    }
  }
  // The sidebar (with the logo) lies outside all landmarks.
  const sidebar = document.querySelector(".bd-sidebar-primary");
  if (sidebar && !sidebar.hasAttribute("role")) {
    sidebar.setAttribute("role", "complementary");
    sidebar.setAttribute("aria-label", "The book");
  }
  // The corner of a pandas table is an empty header; a plain cell says the same.
  for (const header of document.querySelectorAll("table.dataframe th")) {
    if (header.textContent.trim() === "") {
      const cell = document.createElement("td");
      header.replaceWith(cell);
    }
  }
  // What scrolls sideways must be reachable by keyboard, even if it shows only later.
  const wide = "div.highlight pre, .bd-content table, mjx-container, .cell_output pre, "
    + ":has(> img.wide)";
  const sized = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      if (target.scrollWidth > target.clientWidth) target.setAttribute("tabindex", "0");
    }
  });
  const observe = () => document.querySelectorAll(wide).forEach((box) => sized.observe(box));
  observe();
  const connected = () =>
    document.documentElement.classList.toggle("offline", !navigator.onLine);
  connected();
  for (const change of ["online", "offline"]) window.addEventListener(change, connected);
  window.addEventListener("load", observe);  // formulas, too
  // Paper is white, whatever theme the reader has on the screen.
  const shown = document.documentElement.dataset;
  let theme;
  window.addEventListener("beforeprint", () => { theme = shown.theme; shown.theme = "light"; });
  window.addEventListener("afterprint", () => { shown.theme = theme; });
});
