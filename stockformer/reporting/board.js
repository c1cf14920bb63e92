// Tables to sort, filter and search. A row may have runs folded under it (its seeds and folds).
// The state is kept in the address: #find=...&sort=...&only:NAME=VALUE
const FIRST = 100; // rows laid out at once: a thousand take a browser a third of a second
const boards = [...document.querySelectorAll(".filters")].map((bar) => board(bar));
function board(bar) {
  const table = document.getElementById(bar.dataset.of);
  const body = table.tBodies[0];
  const folded = JSON.parse(bar.parentNode.querySelector("script.members")?.textContent ?? "{}");
  const headings = [...[...table.tHead.rows].at(-1).cells];
  const rows = [...body.rows].map((row) => {
    const cells = [...row.cells].map((cell) => cell.textContent.trim());
    const members = folded[cells[0]] ?? [];
    const texts = [...cells, ...members.map((member) => member.cells[0])];
    return { row, cells, values: cells.map(value), members, shown: [], found: index(texts), left: true };
  });
  const all = Object.assign(document.createElement("button"), { type: "button", className: "download" });
  bar.append(all);
  const it = { bar, table, body, headings, rows, all, whole: rows.length <= FIRST, sorted: "", later: 0, rest: 0 };
  const open = () => {
    it.whole = true;
    it.body.append(...moved(it.rows));
    lay(it);
  };
  all.addEventListener("click", open);
  addEventListener("beforeprint", open);
  return it;
}

// A number is compared as a number, so that 1e-3 finds 0.001 and 12 does not find 0.0123.
function number(text) {
  return text.trim() === "" ? NaN : Number(text.replace(/,/g, "").replace(/^[<>]/, "").replace(/%$/, ""));
}
function value(text) {
  const found = number(text.replace(/ ±.*/, ""));
  return Number.isNaN(found) ? text : found;
}
function index(texts) {
  const words = texts.flatMap((text) => text.split(/[\s/,=…()±]+/)).filter(Boolean);
  return {
    text: texts.join(" ").toLowerCase(),
    numbers: new Set(words.map(number).filter((n) => !Number.isNaN(n))),
  };
}
function matches(found, word) {
  const asked = number(word);
  return Number.isNaN(asked) ? found.text.includes(word.toLowerCase()) : found.numbers.has(asked);
}

function order(a, b, down) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what is missing comes last
  return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
}
function moved(rows) {
  return rows.flatMap((each) => [each.row, ...each.shown]);
}
function sortBy(it, column, down) {
  for (const other of it.headings) other.removeAttribute("aria-sort");
  it.headings[column].ariaSort = down ? "descending" : "ascending";
  it.sorted = `${column}${down ? "-" : "+"}`;
  it.rows.sort((a, b) => order(a.values[column], b.values[column], down));
  // What is laid out moves at once; to move a thousand rows takes a third of a second, so the rest, which
  // only a download shows, follows later.
  clearTimeout(it.rest);
  if (it.whole) it.body.append(...moved(it.rows));
  else {
    it.body.prepend(...moved(it.rows.filter((each) => each.left).slice(0, FIRST)));
    it.rest = setTimeout(() => it.body.append(...moved(it.rows)), 500);
  }
  lay(it);
}
// Rows beyond the first are not laid out until asked for; a download has them all.
function lay(it) {
  let place = 0;
  for (const { row, shown, left } of it.rows) {
    const beyond = left && !it.whole && place >= FIRST;
    for (const each of [row, ...shown]) {
      each.hidden = !left;
      each.classList.toggle("beyond", beyond);
    }
    place += left;
  }
  it.all.hidden = it.whole || place <= FIRST;
  it.all.textContent = `show all ${place}, not the first ${FIRST} only`;
}
function filter(it) {
  const words = it.bar.querySelector("input").value.split(/\s+/).filter(Boolean);
  const chosen = [...it.bar.querySelectorAll("select")].filter((list) => list.value !== "");
  for (const each of it.rows) {
    each.left =
      words.every((word) => matches(each.found, word)) &&
      chosen.every((list) => each.cells[list.dataset.column] === list.value);
  }
  if (!it.whole && it.sorted) it.body.prepend(...moved(it.rows.filter((each) => each.left).slice(0, FIRST)));
  lay(it);
  it.bar.querySelector("output").textContent = `${it.rows.filter((each) => each.left).length} of ${it.rows.length}`;
  clearTimeout(it.later); // the figure has a line a run, and follows when the table has been painted
  it.later = setTimeout(() => {
    for (const figure of document.querySelectorAll(`[data-follows="${it.table.id}"]`)) follow(figure, it);
  }, 150);
}
function follow(figure, it) {
  const holder = figure.querySelector(".plot");
  if (!holder || (!holder.data && it.rows.every((each) => each.left))) return; // not drawn yet
  const shown = new Set(it.rows.filter((each) => each.left).map((each) => each.cells[0]));
  Plotly.restyle(holder, { visible: drawn(holder).data.map((trace) => !trace.meta || shown.has(trace.meta)) });
}
function unfold(it, each, button) {
  const open = each.shown.length === 0;
  button.setAttribute("aria-expanded", open);
  if (!open) {
    for (const row of each.shown.splice(0)) row.remove();
    return;
  }
  each.shown = each.members.map(({ cells, link }) => {
    const row = document.createElement("tr");
    row.className = "member";
    cells.forEach((text, i) => {
      const cell = row.appendChild(document.createElement(i ? "td" : "th"));
      cell.className = it.headings[i].className;
      if (i || !link) cell.textContent = text;
      else cell.append(Object.assign(document.createElement("a"), { href: link, textContent: text }));
    });
    return row;
  });
  each.row.after(...each.shown);
}

// The address. A link to a section (#section-3) has no "=" and leaves the state as it is.
function state() {
  return new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
}
function remember(change) {
  const kept = state();
  for (const [name, text] of Object.entries(change)) text ? kept.set(name, text) : kept.delete(name);
  history.replaceState(null, "", `#${kept}`);
}
function recall(it) {
  const kept = state();
  it.bar.querySelector("input").value = kept.get("find") ?? "";
  for (const list of it.bar.querySelectorAll("select")) list.value = kept.get(`only:${list.name}`) ?? "";
  const [, column, way] = /^(\d+)([+-])$/.exec(kept.get("sort") ?? "") ?? [];
  if (column < it.headings.length && kept.get("sort") !== it.sorted) sortBy(it, Number(column), way === "-");
  filter(it);
}
for (const it of boards) {
  lay(it);
  it.bar.addEventListener("input", () => {
    filter(it);
    const only = [...it.bar.querySelectorAll("select")].map((list) => [`only:${list.name}`, list.value]);
    remember({ find: it.bar.querySelector("input").value, ...Object.fromEntries(only) });
  });
  it.headings.forEach((heading, column) =>
    heading.querySelector("button").addEventListener("click", () => {
      sortBy(it, column, heading.ariaSort === "ascending");
      remember({ sort: it.sorted });
    }),
  );
  for (const each of it.rows) {
    const button = each.row.querySelector("button.unfold");
    button?.addEventListener("click", () => unfold(it, each, button));
  }
  if (location.hash.includes("=")) recall(it);
  addEventListener("hashchange", () => location.hash.includes("=") && recall(it));
}
