"use strict";
const holders = [...document.querySelectorAll(".plot")];
const byFinger = matchMedia("(pointer: coarse)").matches;
function draw(holder, data, layout) {
  if (byFinger) layout.dragmode = false; // a finger scrolls the page, it does not zoom
  Plotly.react(holder, data, layout, { displayModeBar: false });
}
for (const holder of holders) {
  const { data, layout } = JSON.parse(holder.nextElementSibling.textContent);
  draw(holder, data, layout);
  new ResizeObserver(() => Plotly.Plots.resize(holder)).observe(holder);
}
// Paper is narrower than most screens, and the figures cannot know that beforehand.
addEventListener("beforeprint", () => {
  for (const holder of holders) {
    Plotly.relayout(holder, { width: holder.closest(".wide") ? 640 : 300 });
  }
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
addEventListener("afterprint", () => {
  for (const holder of holders) Plotly.relayout(holder, { width: null, autosize: true });
});
