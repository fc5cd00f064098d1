"use strict";
// Light or dark as the system says, until the reader chooses.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  const apply = () => {
    const dark = chosen ?? system.matches;
    root.classList.toggle("dark", dark);
    document.getElementById("theme")?.setAttribute("aria-pressed", String(dark));
    document.dispatchEvent(new Event("themechange"));
  };

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      chosen = !root.classList.contains("dark");
      apply();
    });
    apply();
  });
})();
