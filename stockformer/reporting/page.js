"use strict";
const holders = [...document.querySelectorAll(".plot")];
const byFinger = matchMedia("(pointer: coarse)").matches;
const pageName = document.title.replace(/[^\w.-]+/g, "-");
function draw(holder, data, layout) {
  if (byFinger) layout.dragmode = false; // a finger scrolls the page, it does not zoom
  holder.style.height = "";
  Plotly.react(holder, data, layout, { displayModeBar: false });
}
// A figure is drawn when it comes near the screen, or is printed: drawing all takes seconds.
function drawn(holder) {
  if (!holder.data && holder.nextElementSibling) {
    const { data, layout } = JSON.parse(holder.nextElementSibling.textContent);
    draw(holder, data, layout);
    fit(holder);
  }
  return holder;
}
// A figure is as wide as its place, unless that is hidden.
function fit(holder) {
  let width = holder.clientWidth; // an observer is also called at once
  new ResizeObserver(() => {
    if (holder.clientWidth && holder.clientWidth !== width) Plotly.Plots.resize(holder);
    width = holder.clientWidth;
  }).observe(holder);
}
// One at a time, in the page's order, so that the first is seen and the page scrolls meanwhile.
const queue = [];
function drawNext() {
  drawn(queue.shift());
  if (queue.length) setTimeout(drawNext);
}
function whenNear(elements, action) {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        action(target);
      }
    },
    { rootMargin: "300px" },
  );
  for (const element of elements) observer.observe(element);
}
whenNear(holders, (holder) => {
  if (queue.push(holder) === 1) setTimeout(drawNext);
});

// Paper is narrower than most screens, and the figures cannot know that beforehand.
const opened = new Set();
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.open = true;
    opened.add(folded);
  }
  for (const holder of holders) {
    const panel = holder.closest(".panels");
    Plotly.relayout(drawn(holder), { width: holder.closest(".wide") ? 640 : panel ? 290 : 300 });
  }
});
addEventListener("afterprint", () => {
  for (const holder of holders) Plotly.relayout(holder, { width: null, autosize: true });
  for (const folded of opened) folded.open = false;
  opened.clear();
});

// Downloads: each table as CSV, each figure as PNG, made here from what the page holds.
function save(href, name) {
  const link = document.createElement("a");
  Object.assign(link, { href, download: `${pageName}-${name.replace(/[^\w.-]+/g, "-")}` });
  link.click();
}
function button(text, label, action) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", className: "download", textContent: text });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}
function csv(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  // A spreadsheet would run a text that starts like a formula.
  const safe = (text) => (/^[=@\t\r]/.test(text) || /^[+-][^\d.]/.test(text) ? `'${text}` : text);
  const rows = [...table.rows].filter((row) => !row.hidden);
  const cells = (row) => [...row.cells].flatMap((cell) => [cell.textContent.trim(), ...Array(cell.colSpan - 1).fill("")]);
  return rows.map((row) => cells(row).map((text) => quoted(safe(text))).join(",")).join("\n") + "\n";
}
for (const holder of document.querySelectorAll(".table")) {
  const name = holder.dataset.name;
  const text = () => csv(holder.querySelector("table"));
  const action = () => save(URL.createObjectURL(new Blob([text()], { type: "text/csv" })), `${name}.csv`);
  holder.append(button("CSV", `Download the table ${name} as CSV`, action));
}
async function png(holder) {
  const { data, layout, clientWidth: width, clientHeight: height } = drawn(holder);
  const onWhite = { ...layout, paper_bgcolor: "#fff", plot_bgcolor: "#fff", width, height };
  return Plotly.toImage({ data, layout: onWhite }, { format: "png", scale: 2, width, height });
}
for (const holder of document.querySelectorAll(".plot, .own-plot")) {
  const name = holder.getAttribute("aria-label");
  const action = async () => save(await png(holder), `${name}.png`);
  holder.closest("figure").append(button("PNG", `Download the figure ${name} as PNG`, action));
}
