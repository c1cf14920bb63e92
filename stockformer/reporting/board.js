// Tables to sort and filter. Cells are compared as they are shown: numbers first, then words.
function value(cell) {
  const text = cell.textContent.replace(/,/g, "");
  const number = Number(text.replace(/^[<>]/, "").replace(/ ±.*/, ""));
  return text === "" || Number.isNaN(number) ? text : number;
}
function order(a, b, down) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what is missing comes last
  return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
}
function sortBy(table, heading) {
  const column = heading.cellIndex;
  const down = heading.ariaSort === "ascending";
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.ariaSort = down ? "descending" : "ascending";
  const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
  rows.sort(([a], [b]) => order(a, b, down));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
function filter(table, bar) {
  const words = bar.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = [...bar.querySelectorAll("select")].filter((list) => list.value !== "");
  let left = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !(
      words.every((word) => text.includes(word)) &&
      chosen.every((list) => row.cells[list.dataset.column].textContent === list.value)
    );
    left += !row.hidden;
  }
  bar.querySelector("output").textContent = `${left} of ${table.tBodies[0].rows.length}`;
  for (const figure of document.querySelectorAll(`[data-follows="${table.id}"]`)) follow(figure, table);
}
function follow(figure, table) {
  const shown = new Set([...table.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[0].textContent));
  const holder = drawn(figure.querySelector(".plot"));
  Plotly.restyle(holder, { visible: holder.data.map((trace) => !trace.meta || shown.has(trace.meta)) });
}
for (const bar of document.querySelectorAll(".filters")) {
  const table = document.getElementById(bar.dataset.of);
  bar.addEventListener("input", () => filter(table, bar));
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => sortBy(table, button.closest("th")));
  }
}

// Any two runs, from what the page holds of every pair.
for (const chooser of document.querySelectorAll(".pairs")) {
  const groups = JSON.parse(chooser.querySelector("script").textContent);
  const group = new Map(groups.flatMap((g) => g.runs.map((run) => [run, g])));
  const lists = [...chooser.querySelectorAll("select")];
  const plot = chooser.querySelector(".own-plot");
  const board = document.getElementById("board");
  const rowOf = (run) => [...board.tBodies[0].rows].find((row) => row.cells[0].textContent === run);
  for (const list of lists) for (const run of group.keys()) list.add(new Option(run));
  lists[0].value = groups[0].runs[0];
  lists[1].value = groups[0].runs[1];
  function compare() {
    const [a, b] = lists.map((list) => list.value);
    chooser.querySelector(".verdict").textContent = comparison(a, b);
    const table = chooser.querySelector("table");
    table.tHead.replaceChildren(line(["", a, b], "th"));
    const headings = [...board.tHead.rows].at(-1).cells;
    const [first, second] = [a, b].map((run) => [...rowOf(run).cells].map((cell) => cell.textContent));
    table.tBodies[0].replaceChildren(
      ...first.slice(1).map((cell, i) => {
        const heading = headings[i + 1];
        const part = heading.classList.contains("aside") ? " (test)" : "";
        const row = line([heading.textContent + part, cell, second[i + 1]], "td");
        row.classList.toggle("marked", cell !== second[i + 1]);
        return row;
      }),
    );
    const same = group.get(a) === group.get(b);
    draw(plot, same ? curves(a, b) : [], layout());
  }
  function comparison(a, b) {
    if (a === b) return "Choose two different runs.";
    const g = group.get(a);
    if (g !== group.get(b)) return "Tested on other data or dates: these two cannot be compared.";
    const [i, j] = [g.runs.indexOf(a), g.runs.indexOf(b)];
    const [low, high] = i < j ? [i, j] : [j, i];
    const pair = low * g.runs.length - (low * (low + 1)) / 2 + high - low - 1;
    const turn = (text) => (i < j ? text : text.replace(/^[+-]/, (s) => (s === "+" ? "-" : "+")));
    return `Difference of daily rank IC, ${a} minus ${b}: ${turn(g.mean[pair])} (t ${turn(g.t[pair])}, p ${g.p[pair]}, ${g.n[pair]} dates).`;
  }
  function curves(a, b) {
    const g = group.get(a);
    const series = [a, b].map((run) => g.rank_ic[g.runs.indexOf(run)]);
    const add = (name, values, color, width) => {
      let sum = 0;
      const y = values.map((v) => (sum += v ?? 0));
      return { x: g.dates, y, name: plain(name), mode: "lines", line: { color, width }, hovertemplate: "to %{x|%a %Y-%m-%d}: %{y:+.2f}" };
    };
    const apart = series[0].map((v, i) => (v === null || series[1][i] === null ? null : v - series[1][i]));
    return [add(a, series[0], "#2f9e7e", 2), add(b, series[1], "#dd8333", 2), add("difference", apart, "#8c8c8c", 1.5)];
  }
  function layout() {
    const axis = { automargin: true, zeroline: false };
    return {
      height: 300, margin: { l: 8, r: 12, t: 28, b: 8 }, font: { family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hoverlabel: { font: { family: "system-ui, sans-serif" } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, title: { text: "signal date (day)", standoff: 8 } },
      yaxis: { ...axis, title: { text: "cumulated rank IC (sum)", standoff: 8 } },
    };
  }
  function plain(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly would take it for markup
  }
  function line(cells, tag) {
    const row = document.createElement("tr");
    cells.forEach((text, i) => {
      const cell = document.createElement(i ? tag : "th");
      cell.textContent = text;
      if (!i) cell.className = "words";
      row.append(cell);
    });
    return row;
  }
  for (const list of lists) list.addEventListener("input", compare);
  compare();
  holders.push(plot);
  new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot);
}
