"use strict";
const holders = [...document.querySelectorAll(".plot")];
const byFinger = matchMedia("(pointer: coarse)").matches;
for (const holder of holders) {
  const { data, layout } = JSON.parse(holder.nextElementSibling.textContent);
  if (byFinger) layout.dragmode = false; // a finger scrolls the page, it does not zoom
  Plotly.newPlot(holder, data, layout, { displayModeBar: false });
  new ResizeObserver(() => Plotly.Plots.resize(holder)).observe(holder);
}
// Paper is narrower than most screens, and the figures cannot know that beforehand.
addEventListener("beforeprint", () => {
  for (const holder of holders) Plotly.relayout(holder, { width: 300 });
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
addEventListener("afterprint", () => {
  for (const holder of holders) Plotly.relayout(holder, { width: null, autosize: true });
});
