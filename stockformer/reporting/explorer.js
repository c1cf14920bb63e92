// A date's stocks or a stock's dates: forecasts, outcomes, ranks, and what the backtest did.
const ACTIONS = ["", "bought", "held", "sold"]; // as in evaluation/returns.py
const NONE = -32768; // an unknown number

function explore(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const { dates, trades, tickers, rankIc } = data;
  const stocks = tickers.length;
  const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const int16 = (text) => new Int16Array(bytes(text).buffer);
  const forecast = int16(data.forecast), outcome = int16(data.outcome), rank = int16(data.rank);
  const probability = bytes(data.probability), action = bytes(data.action);
  const outcomeRank = new Int16Array(outcome.length);
  const valid = dates.map((_, day) => {
    const known = [...Array(stocks).keys()].map((n) => day * stocks + n).filter((c) => outcome[c] !== NONE);
    known.sort((a, b) => outcome[b] - outcome[a]);
    known.forEach((cell, place) => {
      const before = known[place - 1];
      outcomeRank[cell] = place && outcome[cell] === outcome[before] ? outcomeRank[before] : place + 1;
    });
    return known.length;
  });
  const select = box.querySelector("select"), input = box.querySelector("input");
  const said = box.querySelector("p"), figure = box.querySelector("figure");
  const plot = box.querySelector(".own-plot");
  const head = box.querySelector("thead"), body = box.querySelector("tbody");

  const signed = (value, digits) => (value > 0 ? "+" : "") + value.toFixed(digits);
  const points = (array, cell, unit) => (array[cell] === NONE ? "" : signed(array[cell] * unit, 1));
  const cells = (cell) => [
    rank[cell] || "",
    points(forecast, cell, data.forecastUnit),
    probability[cell] === 255 ? "" : `${(probability[cell] / 2).toFixed(0)} %`,
    points(outcome, cell, data.outcomeUnit),
    outcomeRank[cell] || "",
    ACTIONS[action[cell]],
  ];
  const HEADER = ["rank", "forecast (basis points)", "P(up)", "outcome (basis points)", "rank of outcome", "backtest"];

  function element(tag, text, settings = {}) {
    return Object.assign(document.createElement(tag), { textContent: text }, settings);
  }
  function show(first, rows) {
    const heading = document.createElement("tr");
    heading.append(element("th", first, { scope: "col", className: "words" }));
    HEADER.forEach((name, n) =>
      heading.append(element("th", name, { scope: "col", className: n === 5 ? "words" : "" })));
    head.replaceChildren(heading);
    body.replaceChildren(...rows.map(([name, cell]) => {
      const row = document.createElement("tr");
      row.append(element("th", name, { scope: "row", className: "words" }));
      cells(cell).forEach((text, n) =>
        row.append(element("td", text, { className: n === 5 ? `words ${text}` : "" })));
      return row;
    }));
    body.closest(".scroll").scrollTop = 0;
  }
  function showDate(day) {
    const all = [...Array(stocks).keys()].map((n) => day * stocks + n);
    all.sort((a, b) => (rank[a] || 1e6) - (rank[b] || 1e6) || forecast[b] - forecast[a]);
    const done = ACTIONS.slice(1).map((name, n) => `${all.filter((c) => action[c] === n + 1).length} ${name}`);
    const skill = rankIc[day] === null ? "no rank IC" : `rank IC ${signed(rankIc[day], 3)}`;
    const traded = trades[day] ? `traded on ${trades[day]}: ${done.join(", ")}` : "not traded";
    said.textContent = `Signal of ${dates[day]}: ${skill} over ${valid[day]} stocks; ${traded}.`;
    figure.hidden = true;
    show("stock", all.map((cell) => [tickers[cell % stocks], cell]));
  }
  function showStock(stock) {
    const all = dates.map((_, day) => day * stocks + stock);
    const count = (code) => all.filter((cell) => action[cell] === code).length;
    const known = all.filter((cell) => outcome[cell] !== NONE);
    const right = known.filter((cell) => forecast[cell] * outcome[cell] > 0).length;
    said.textContent =
      `${tickers[stock]}: ${known.length} dates with an outcome, on ${right} of them forecast and outcome ` +
      `have the same sign; bought ${count(1)} times, held on ${count(2)} further dates, sold ${count(3)} times.`;
    figure.hidden = false;
    const values = (array, unit) => all.map((cell) => (array[cell] === NONE ? null : array[cell] * unit));
    const axis = { automargin: true, zeroline: false };
    draw(plot, [
      { type: "bar", name: "outcome", x: dates, y: values(outcome, data.outcomeUnit), marker: { color: data.outcomeColour } },
      { type: "scatter", mode: "lines", name: "forecast", x: dates, y: values(forecast, data.forecastUnit), line: { color: data.forecastColour, width: 2.5 } },
    ], {
      height: 270, margin: { l: 8, r: 24, t: 28, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, title: { text: "signal date (day)" } }, yaxis: { ...axis, title: { text: "return (basis points)" } },
    });
    show("signal date", all.map((cell, day) => [dates[day], cell]).reverse());
  }

  dates.forEach((date, day) => select.add(new Option(date, day)));
  box.querySelector("datalist").replaceChildren(...tickers.map((name) => new Option("", name)));
  select.addEventListener("change", () => {
    input.value = "";
    showDate(+select.value);
  });
  input.addEventListener("change", () => {
    const name = input.value.trim();
    if (!name) return showDate(+select.value);
    const same = (ticker) => ticker.toLowerCase() === name.toLowerCase();
    const stock = tickers.includes(name) ? tickers.indexOf(name) : tickers.findIndex(same);
    if (stock >= 0) return showStock(stock);
    said.textContent = `No stock is named ${name}.`;
  });
  fit(plot);
  select.value = dates.length - 1;
  showDate(dates.length - 1);
  said.setAttribute("aria-live", "polite"); // from here on the reader has chosen
}
// Its ranks of all outcomes take a while: they are found when the explorer comes near the screen.
whenNear(document.querySelectorAll(".explorer"), explore);
