"use strict";
// Charts are drawn when they come into view, in the colours of the theme.
(() => {
  const drawn = new Map();

  const themed = (item) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return JSON.parse(
      JSON.stringify(item).replaceAll("#24292f", colour("--ink")).replaceAll("#d8dee4", colour("--line")),
    );
  };
  const draw = async (place) => {
    const dark = document.documentElement.classList.contains("dark");
    if (drawn.get(place) === dark) return;
    drawn.set(place, dark);
    const item = window.cfbench[place.dataset.set].charts[place.dataset.chart];
    place.replaceChildren();
    await window.Bokeh.embed.embed_item(themed(item), place);
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "400px" });
  for (const place of document.querySelectorAll(".chart")) watcher.observe(place);
  document.addEventListener("themechange", () => {
    for (const place of drawn.keys()) if (place.offsetParent) draw(place);
      else drawn.delete(place);
  });

  for (const choice of document.querySelectorAll("[data-charts]")) {
    choice.addEventListener("change", () => {
      for (const figure of choice.closest(".dataset").querySelectorAll("[data-quantity]")) {
        figure.hidden = figure.dataset.quantity !== choice.value;
      }
    });
  }
})();
