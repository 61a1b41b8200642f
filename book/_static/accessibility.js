/* Cures what axe-core finds in the theme and in pandas' tables. Runs once per page. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  // The search button says "Search Ctrl+K" but is named "Search": let its text name it.
  for (const button of document.querySelectorAll("button.search-button-field")) {
    button.removeAttribute("aria-label");
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
  // What scrolls sideways must be reachable by keyboard.
  const wide = "div.highlight pre, .bd-content table, mjx-container, .cell_output pre";
  const mark = () => {
    for (const box of document.querySelectorAll(wide)) {
      if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
    }
  };
  mark();
  window.addEventListener("load", mark);
  window.addEventListener("resize", mark);
});
