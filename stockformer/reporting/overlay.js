// Two to five runs over one another, from what the page holds of each and of every pair.
// Colours of Okabe and Ito, which the colour-blind can tell apart, and a dash of its own for each.
const STYLES = [
  ["#0072b2", "solid"], ["#d55e00", "dash"], ["#009e73", "dot"], ["#cc79a7", "dashdot"], ["#b58900", "longdash"],
];
for (const chooser of document.querySelectorAll(".pairs")) {
  const { metric, groups } = JSON.parse(chooser.querySelector("script").textContent);
  const group = new Map(groups.flatMap((g) => g.runs.map((run) => [run, g])));
  const lists = [...chooser.querySelectorAll("select")];
  const [curvePlot, moneyPlot, leadPlot] = chooser.querySelectorAll(".own-plot");
  const rows = new Map((boards[0]?.rows ?? []).map((each) => [each.cells[0], each.cells]));
  let near = false;
  lists.forEach((list, i) => {
    if (i > 1) list.add(new Option("none", ""));
    for (const run of group.keys()) list.add(new Option(run));
  });
  function choose() {
    const kept = state().getAll("run").filter((run) => group.has(run));
    const given = kept.length > 1 ? kept : groups[0].runs.slice(0, 2);
    lists.forEach((list, i) => (list.value = given[i] ?? ""));
    compare();
  }
  function compare() {
    const runs = lists.map((list) => list.value).filter(Boolean);
    const first = group.get(runs[0]);
    const distinct = new Set(runs).size === runs.length;
    const same = runs.every((run) => group.get(run) === first);
    const said = !distinct
      ? ["Choose different runs."]
      : same
        ? runs.slice(1).map((run) => lead(first, runs[0], run))
        : ["Tested on other data or dates: these runs cannot be compared."];
    chooser.querySelector(".verdict").replaceChildren(
      ...said.map((text) => Object.assign(document.createElement("span"), { textContent: text })),
    );
    const shown = distinct && same ? runs : [];
    differences(first, shown);
    if (near) figures(first, shown);
  }

  function pair(g, a, b) {
    const [i, j] = [g.runs.indexOf(a), g.runs.indexOf(b)];
    const [low, high] = i < j ? [i, j] : [j, i];
    return [low * g.runs.length - (low * (low + 1)) / 2 + high - low - 1, i < j ? 1 : -1];
  }
  function lead(g, a, b) {
    const [at, sign] = pair(g, a, b);
    const turn = (text) => (sign > 0 ? text : text.replace(/^[+-]/, (s) => (s === "+" ? "-" : "+")));
    const [mean, half] = [Number(turn(g.mean[at])), g.half[at]];
    const end = (x) => (x < 0 ? "" : "+") + x.toFixed(4);
    const interval = half === null ? "" : `95 % interval ${end(mean - half)} to ${end(mean + half)}, `;
    return `${a} minus ${b}: ${turn(g.mean[at])} (${interval}t ${turn(g.t[at])}, p ${g.p[at]}, ${g.n[at]} dates)`;
  }

  function differences(g, runs) {
    const table = chooser.querySelector("table");
    table.tHead.replaceChildren(line(["", ...runs], "th"));
    const cells = runs.map((run) => rows.get(run) ?? []);
    const metrics = (boards[0]?.headings ?? []).slice(1).map((heading, i) => {
      const part = heading.classList.contains("aside") ? " (test)" : "";
      return [heading.textContent + part, ...cells.map((row) => row[i + 1])];
    });
    const shown = new Set(metrics.map(([name]) => name));
    const places = runs.map((run) => g.runs.indexOf(run));
    const settings = g.keys.map((key, k) => [key, ...places.map((place) => g.values[place][k])]);
    const differ = ([, first, ...others]) => others.some((text) => text !== first);
    const more = settings.filter((row) => !shown.has(row[0]) && differ(row));
    table.tBodies[0].replaceChildren(
      ...[...metrics, ...more].map((row) => {
        const made = line(row, "td");
        made.classList.toggle("marked", differ(row));
        return made;
      }),
    );
  }

  function figures(g, runs) {
    const places = runs.map((run) => g.runs.indexOf(run));
    const curves = places.map((place, i) => {
      const y = g.curves[place];
      return trace(runs[i], y.map((_, epoch) => epoch + 1), y, i, "epoch %{x}: %{y:.4f}");
    });
    show(curvePlot, curves, "epoch (number)", `validation ${metric}`);
    const money = places.map((place, i) => trace(runs[i], g.days, grown(g.net[place]), i, "%{x|%a %Y-%m-%d}: %{y:.3f}"));
    const universe = trace("universe", g.days, grown(g.universe), 0, "%{x|%a %Y-%m-%d}: %{y:.3f}");
    universe.line = { color: "#8c8c8c", width: 1.5, dash: "dot" };
    show(moneyPlot, runs.length ? [...money, universe] : [], "date (day)", "after costs (1 = the start)");
    const leads = runs.slice(1).flatMap((run, i) => {
      const apart = g.rank_ic[places[0]].map((v, day) => difference(v, g.rank_ic[places[i + 1]][day]));
      const drawn = trace(`${runs[0]} minus ${run}`, g.dates, summed(apart), i + 1, "to %{x|%a %Y-%m-%d}: %{y:+.2f}");
      return [...band(g, runs[0], run, apart, i + 1), drawn];
    });
    show(leadPlot, leads, "signal date (day)", "cumulated lead in rank IC (sum)");
  }
  // The mean's 95 % interval, times the dates so far.
  function band(g, a, b, apart, style) {
    const [at, sign] = pair(g, a, b);
    const [mean, half] = [sign * Number(g.mean[at]), g.half[at]];
    if (half === null) return [];
    let dates = 0;
    const so_far = apart.map((v) => (dates += v !== null));
    return [-1, 1].map((side) => ({
      ...trace("", g.dates, so_far.map((n) => n * (mean + side * half)), style, ""),
      line: { width: 0 }, hoverinfo: "skip", hovertemplate: undefined, showlegend: false,
      fill: side > 0 ? "tonexty" : "none", fillcolor: STYLES[style][0] + "26",
    }));
  }
  function difference(a, b) {
    return a === null || b === null ? null : a - b;
  }
  function summed(values) {
    let sum = 0;
    return values.map((v) => (sum += v ?? 0));
  }
  function grown(points) {
    let account = 1;
    return points.map((p) => (p === null ? null : (account *= 1 + p / 1e4)));
  }
  function trace(name, x, y, style, hovertemplate) {
    const [color, dash] = STYLES[style];
    return { x, y, name: plain(name), mode: "lines", line: { color, dash, width: 2 }, hovertemplate };
  }
  function show(holder, data, x, y) {
    const axis = { automargin: true, zeroline: false };
    draw(holder, data, {
      height: 300, margin: { l: 8, r: 12, t: 28, b: 8 }, font: { family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hoverlabel: { font: { family: "system-ui, sans-serif" } },
      showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, title: { text: x, standoff: 8 } }, yaxis: { ...axis, title: { text: y, standoff: 8 } },
    });
    if (holders.includes(holder)) return;
    holders.push(holder);
    fit(holder);
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
  for (const list of lists) {
    list.addEventListener("input", () => {
      compare();
      const kept = state();
      kept.delete("run");
      for (const { value } of lists) if (value) kept.append("run", value);
      history.replaceState(null, "", `#${kept}`);
    });
  }
  function arrive() {
    if (near) return;
    near = true;
    compare();
  }
  choose();
  addEventListener("hashchange", () => location.hash.includes("=") && choose());
  addEventListener("beforeprint", arrive, { capture: true });
  whenNear([chooser], arrive);
}
