"use strict";
// Sorting, filtering, the comparison of configs, and the figures. The functions above the line touch no document.

/** Whether a row, as pairs [column, text], is what every word of a query asks for: `seed=2` that column, a number a whole cell, all else a part of one. */
function matches(row, query) {
  return query.toLowerCase().split(/\s+/).filter(Boolean).every((word) => {
    const [column, value] = [word.split("=")[0], word.split("=").slice(1).join("=")];
    const named = row.filter(([name]) => name.toLowerCase() === column);
    if (value !== "" && named.length) return named.some(([, text]) => text.toLowerCase() === value);
    return row.some(([, text]) => (Number.isNaN(Number(word)) ? text.toLowerCase().includes(word) : text === word));
  });
}

/** Orders two cells: numbers by value, texts by their letters, and what is empty at the end in both directions. */
function order(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const x = Number(a), y = Number(b);
  return direction * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y);
}

/** The rows [path, one value, the other] in which two jobs of a config table differ; null: no such key. */
function differing(configs, left, right) {
  const text = (job, key) => (configs.jobs[job][key] < 0 ? null : configs.values[key][configs.jobs[job][key]]);
  return configs.keys
    .map((path, key) => [path, text(left, key), text(right, key)])
    .filter(([, a, b]) => a !== b);
}

/** A domain around 0 that shows most differences, and lets the few that are far larger run off. */
function differenceDomain(schemes) {
  const told = schemes.filter((scheme) => scheme.difference).map((scheme) => scheme.difference);
  const sizes = told.map(([mean]) => Math.abs(mean)).sort((a, b) => a - b);
  if (!sizes.length) return [-1, 1];
  const largest = sizes[sizes.length - 1], middle = sizes[Math.floor((sizes.length - 1) / 2)];
  const limit = (largest > 10 * middle && middle > 0 ? 4 * middle : largest) || Math.max(...told.map(([, half]) => half || 0)) || 1;
  const ends = told.flatMap(([mean, half]) => [mean - (half || 0), mean + (half || 0), mean, 0]);
  const low = Math.max(Math.min(...ends), -1.15 * limit), high = Math.min(Math.max(...ends), 1.15 * limit);
  const room = 0.05 * (high - low || 1);
  return [low - room, high + room];
}

/** Whether values spread so far, and all above 0, that a logarithmic axis shows more. */
function wantsLog(values) {
  return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 5 * Math.min(...values);
}

function short(value) {
  if (value === null || value === undefined) return "-";
  const rounded = Number(value.toPrecision(4)), size = Math.abs(rounded);
  return size >= 1e5 || (size > 0 && size < 1e-4) ? rounded.toExponential() : String(rounded);
}

/** Ticks of a logarithmic axis: 1, 2 and 5 of each power of ten; of many powers 1 alone, and no more than eight. */
function logTicks([low, high]) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), powers = last - first;
  const step = Math.max(1, Math.ceil(powers / 8)), digits = powers > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = first; power <= last; power += step) for (const digit of digits) ticks.push(Number(`${digit}e${power}`));
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

if (typeof module !== "undefined") module.exports = { matches, order, differing, differenceDomain, wantsLog, short, logTicks };

// ---------------------------------------------------------------------------------------------------------------------

if (typeof document !== "undefined") {
  window.addEventListener("error", (event) => {
    const place = document.getElementById("errors");
    place.hidden = false;
    place.textContent = `A figure could not be drawn: ${event.message}`;
  });

  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = 8;
  const MOST_ROWS = 60;
  const shown = new Set(data.schemes.slice(0, COLOURS).map((_, index) => index));
  const colour = (index) => (index < COLOURS ? `var(--c${index})` : "var(--muted)");
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== null) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const style = { background: "none", color: "var(--ink)", fontSize: "12px", overflow: "visible" };
  const picture = (options) => {
    const drawn = Plot.plot({ ...options, style });
    drawn.setAttribute("role", "img");
    return drawn;
  };
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // ---- the table of runs
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => order(a.cells[column].dataset.value || "", b.cells[column].dataset.value || "", direction));
        table.tBodies[0].append(...rows);
      });
    });
  }

  function filterable(table) {
    const words = document.getElementById("filter"), status = document.getElementById("status");
    if (!words) return;
    const count = document.getElementById("count");
    const apply = () => {
      const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
      for (const row of rows) {
        const cells = [...row.cells].map((cell, column) => [heads[column], cell.dataset.value || ""]);
        row.hidden = !matches(cells, words.value) || (status.value !== "" && row.dataset.status !== status.value);
      }
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    words.addEventListener("input", apply);
    status.addEventListener("change", apply);
    apply();
  }

  // ---- two configs
  function comparable() {
    const left = document.getElementById("left"), right = document.getElementById("right");
    if (!left) return;
    right.selectedIndex = right.options.length - 1;
    const show = () => {
      const place = document.getElementById("diff"), a = left.selectedIndex, b = right.selectedIndex;
      const missing = [a, b].filter((job) => !data.configs.known[job]);
      if (missing.length) {
        place.replaceChildren(element("p", `Run ${missing.map((job) => data.numbers[job]).join(" and ")} has left no config yet.`));
        return;
      }
      const rows = differing(data.configs, a, b);
      const same = data.configs.shared + data.configs.keys.length - rows.length;
      if (!rows.length) {
        place.replaceChildren(element("p", `No difference: all ${same} values are the same.`));
        return;
      }
      const table = element("table", null), head = table.createTHead().insertRow(), body = table.createTBody();
      for (const text of ["key", `run ${data.numbers[a]}`, `run ${data.numbers[b]}`]) head.append(element("th", text, { scope: "col" }));
      for (const [path, x, y] of rows) {
        const row = body.insertRow();
        for (const text of [path, x, y]) {
          const cell = row.insertCell();
          cell.append(text === null ? element("span", "not there") : element("code", text));
        }
      }
      place.replaceChildren(table, element("p", `${same} other values are the same.`, { class: "note" }));
    };
    left.addEventListener("change", show);
    right.addEventListener("change", show);
    show();
  }

  // ---- figures
  const rowsOf = data.schemes.map((scheme, index) => ({ ...scheme, index })).filter((scheme) => scheme.mean !== null);

  function strip(place, width, marks, x, label) {
    const rows = rowsOf.slice(0, MOST_ROWS);
    const most = Math.max(...rows.map((row) => Math.min(row.label.length, 26)));
    const left = Math.min(16 + 6.6 * most, 0.42 * width);
    const characters = Math.floor((left - 14) / 6.4);
    place.replaceChildren(picture({
      width, height: 46 + 24 * rows.length, marginLeft: left, marginRight: 26, marginTop: 8, marginBottom: 38, ariaLabel: label,
      x: { ...x, nice: false },
      y: { type: "band", domain: rows.map((row) => row.index), label: null, tickSize: 0, padding: 0.1,
        tickFormat: (index) => cut(data.schemes[index].label, characters) },
      marks: [Plot.gridX({ ticks: x.ticks, stroke: "var(--line)", strokeOpacity: 1 }), ...marks(rows)],
    }));
    if (rowsOf.length > rows.length) place.append(element("p", `The first ${MOST_ROWS} of ${rowsOf.length}.`, { class: "note" }));
  }

  function dots(place, width) {
    const values = rowsOf.slice(0, MOST_ROWS).flatMap((row) => row.values.map(([, value]) => value));
    const isLog = wantsLog(values);
    const low = Math.min(...values), high = Math.max(...values), room = 0.04 * (high - low || Math.abs(high) || 1);
    const domain = isLog ? [low / 1.15, high * 1.15] : [low - room, high + room];
    const x = { type: isLog ? "log" : "linear", domain, label: `${data.metric.name} (${data.metric.higher ? "higher" : "lower"} is better) →`,
      tickFormat: isLog ? short : undefined, ticks: isLog ? logTicks(domain) : width < 500 ? 4 : 6 };
    strip(place, width, (rows) => [
      Plot.ruleY(rows.filter((row) => row.half !== null), { y: "index", x1: (row) => Math.max(domain[0], row.mean - row.half),
        x2: (row) => Math.min(domain[1], row.mean + row.half), stroke: (row) => colour(row.index), strokeWidth: 8, strokeOpacity: 0.22 }),
      Plot.dot(rows.flatMap((row) => row.values.map(([seed, value]) => ({ index: row.index, seed, value }))), { y: "index", x: "value", r: 3.2,
        fill: (dot) => colour(dot.index), fillOpacity: 0.75, title: (dot) => `${data.schemes[dot.index].label}\nseed ${dot.seed}: ${short(dot.value)}`, tip: true }),
      Plot.tickX(rows, { y: "index", x: "mean", stroke: "var(--ink)", strokeWidth: 2, inset: 3 }),
    ], x, `${data.metric.name} of every run by scheme, with the mean of each scheme`);
  }

  function differences(place, width) {
    const domain = differenceDomain(rowsOf), inside = (value) => value >= domain[0] && value <= domain[1];
    const clamp = (value) => Math.min(domain[1], Math.max(domain[0], value));
    const tone = { worse: "var(--bad)", better: "var(--good)" };
    strip(place, width, (rows) => {
      const told = rows.filter((row) => row.difference);
      const off = told.filter((row) => !inside(row.difference[0]));
      const on = told.filter((row) => inside(row.difference[0]));
      return [
        Plot.ruleX([0], { stroke: "var(--ink)", strokeWidth: 1.2 }),
        Plot.ruleY(on.filter((row) => row.difference[1] !== null), { y: "index", x1: (row) => clamp(row.difference[0] - row.difference[1]),
          x2: (row) => clamp(row.difference[0] + row.difference[1]), stroke: (row) => tone[row.outcome] || "var(--muted)", strokeWidth: 2.2 }),
        Plot.dot(on.flatMap((row) => row.differences.filter(([, value]) => inside(value)).map(([seed, value]) => ({ index: row.index, seed, value }))),
          { y: "index", x: "value", r: 2.6, fill: "var(--muted)", fillOpacity: 0.6, title: (dot) => `${data.schemes[dot.index].label}\nseed ${dot.seed}: ${short(dot.value)}`, tip: true }),
        Plot.dot(on, { y: "index", x: (row) => row.difference[0], r: 4.5, fill: (row) => tone[row.outcome] || "var(--card)", stroke: (row) => tone[row.outcome] || "var(--muted)", strokeWidth: 1.6 }),
        Plot.text(rows.filter((row) => row.outcome === "best"), { y: "index", x: () => 0, text: () => "best", dx: 6, textAnchor: "start", fill: "var(--good)" }),
        ...[-1, 1].map((side) => Plot.text(on.filter((row) => row.difference[1] !== null && !inside(row.difference[0] + side * row.difference[1])), { y: "index",
          x: () => domain[side < 0 ? 0 : 1], text: () => (side < 0 ? "◂" : "▸"), dx: 2 * side, fontSize: 14, fill: (row) => tone[row.outcome] || "var(--muted)" })),
        ...["end", "start"].map((textAnchor) => Plot.text(off.filter((row) => (row.difference[0] > 0) === (textAnchor === "end")), { y: "index",
          x: (row) => clamp(row.difference[0]), text: (row) => (textAnchor === "end" ? `+${short(row.difference[0])} ▸` : `◂ ${short(row.difference[0])}`),
          textAnchor, fill: (row) => tone[row.outcome] || "var(--muted)" })),
      ];
    }, { domain, ticks: width < 500 ? 4 : 6, label: data.metric.higher ? "← worse    difference    better →" : "← better    difference    worse →" , labelAnchor: "center" },
    "Mean difference of each scheme to the best on equal seeds, with its interval");
  }

  function panel(place, title) {
    const figure = element("figure", null), box = element("div", null, { class: "plot" });
    figure.append(element("figcaption", title), box);
    place.append(figure);
    return box;
  }

  function lines(box, title, series, options) {
    const width = Math.max(240, box.clientWidth);
    const rest = series.filter((entry) => !shown.has(entry.index)), main = series.filter((entry) => shown.has(entry.index));
    const points = (entries, key) => entries.flatMap((entry) => entry[key].map((point) => ({ ...point, index: entry.index })));
    const stroke = (point) => (shown.has(point.index) ? colour(point.index) : "var(--grey)");
    const seen = main.length ? main : rest; // those in grey may run off
    const heights = seen.flatMap((entry) => [...entry.line, ...entry.dashed, ...entry.ends].map((point) => point.y)
      .concat(entry.band.flatMap((point) => [point.low, point.high])));
    const drawn = options.isLog ? heights.filter((value) => value > 0) : heights;
    const ticks = options.isLog && drawn.length ? logTicks(d3.extent(drawn)) : 5;
    const whole = (value) => (Number.isInteger(value) ? String(value) : "");
    box.replaceChildren(picture({
      width, height: Math.max(230, Math.min(330, 0.66 * width)), marginLeft: 50, marginRight: 14, marginBottom: 38, ariaLabel: title,
      x: { label: options.x, ticks: Math.min(7, options.steps), tickFormat: whole },
      y: { type: options.isLog ? "log" : "linear", domain: drawn.length ? d3.extent(drawn) : undefined, label: null, ticks, tickFormat: options.isLog ? short : undefined, nice: !options.isLog },
      marks: [
        Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks }),
        Plot.line(points(rest, "line"), { x: "x", y: "y", z: "index", stroke, strokeWidth: 0.9, strokeOpacity: 0.7, clip: true }),
        Plot.areaY(points(main, "band"), { x: "x", y1: "low", y2: "high", z: "index", fill: stroke, fillOpacity: 0.14 }),
        Plot.line(points(main, "dashed"), { x: "x", y: "y", z: "index", stroke, strokeWidth: 1.4, strokeDasharray: "4 3" }),
        Plot.line(points(main, "line"), { x: "x", y: "y", z: "index", stroke, strokeWidth: 2 }),
        Plot.dot(points(main, "line").filter((point) => point.alone), { x: "x", y: "y", fill: stroke, r: 3.5 }),
        Plot.dot(points([...rest, ...main], "ends"), { x: "x", y: "y", symbol: "times", stroke, r: 4.5, strokeWidth: 2, clip: "frame" }),
        Plot.tip(points(main, "line"), Plot.pointer({ x: "x", y: "y", fill: "var(--card)", stroke: "var(--line)",
          title: (point) => `${cut(data.schemes[point.index].label, 60)}\n${options.name(point)}: ${short(point.y)}` })),
      ],
    }));
  }

  const COLUMNS = { train_loss: "training loss", val_loss: "validation loss", val_accuracy: "validation accuracy" };
  function curves(place) {
    const found = Object.keys(COLUMNS).filter((column) => data.schemes.some((scheme) => scheme.curves[column]));
    place.replaceChildren();
    const boxes = found.map((column) => panel(place, COLUMNS[column])); // all first: the width of each follows from how many there are
    found.forEach((column, at) => {
      const series = data.schemes.flatMap((scheme, index) => {
        const curve = scheme.curves[column];
        if (!curve) return [];
        const line = curve.epochs.map((x, step) => ({ x, y: curve.middle[step], alone: curve.epochs.length === 1 }));
        const band = (curve.low ? curve.epochs : []).map((x, step) => ({ x, low: curve.low[step], high: curve.high[step] }));
        return [{ index, line, band, dashed: [], ends: curve.ends.map(([x, y]) => ({ x, y })) }];
      });
      const steps = Math.max(...series.map((entry) => entry.line.length));
      const isLog = column !== "val_accuracy" && document.getElementById("log").checked;
      lines(boxes[at], COLUMNS[column], series, { x: "epoch", steps, isLog, name: (point) => `epoch ${point.x}` });
    });
  }

  const WAYS = { forward: "forward: outputs", gradient: "backward: gradients" };
  function signal(place) {
    place.replaceChildren();
    const boxes = Object.values(WAYS).map((title) => panel(place, title));
    const found = data.schemes.map((scheme, index) => ({ index, told: scheme.signal })).filter((entry) => entry.told);
    const above = (told, key) => told[key].map((y, at) => ({ x: at + 1, y, name: told.layers[at] })).filter((point) => point.y !== null && point.y > 0);
    Object.keys(WAYS).forEach((key, at) => {
      const series = found.map(({ index, told }) => ({ index, line: above(told, key), dashed: above(told, `${key}_predicted`), band: [], ends: [] }));
      const steps = Math.max(...found.map(({ told }) => told.layers.length));
      lines(boxes[at], WAYS[key], series, { x: "layer", steps, isLog: true, name: (point) => point.name || `layer ${point.x}` });
    });
  }

  // ---- chips that choose the schemes in colour
  function chips() {
    for (const list of document.querySelectorAll("[data-chips]")) {
      list.replaceChildren(...data.schemes.map((scheme, index) => {
        const button = element("button", null, { type: "button", "aria-pressed": String(shown.has(index)), title: scheme.label });
        const mark = element("span", null, { class: "swatch", "aria-hidden": "true" });
        mark.style.background = colour(index);
        button.append(mark, element("span", scheme.label, { class: "text" }));
        button.addEventListener("click", () => {
          if (!shown.delete(index)) shown.add(index);
          for (const other of document.querySelectorAll("[data-chips]")) {
            other.children[index].firstChild.setAttribute("aria-pressed", String(shown.has(index)));
          }
          draw(["fig-curves", "fig-signal"]);
        });
        const item = element("li", null);
        item.append(button);
        return item;
      }));
    }
  }

  const FIGURES = { "fig-dots": dots, "fig-differences": differences, "fig-curves": curves, "fig-signal": signal };
  function draw(names = Object.keys(FIGURES)) {
    for (const name of names) {
      const place = document.getElementById(name);
      if (place) FIGURES[name](place.querySelector(":scope > .plot") || place, place.clientWidth);
    }
  }

  const table = document.getElementById("job-table");
  if (table) {
    sortable(table);
    filterable(table);
  }
  comparable();
  const log = document.getElementById("log");
  if (log) {
    const losses = data.schemes.flatMap((scheme) => ["train_loss", "val_loss"].flatMap((column) => {
      const curve = scheme.curves[column];
      return curve ? [...curve.middle, ...(curve.low || []), ...(curve.high || [])] : [];
    }));
    log.checked = wantsLog(losses);
    log.addEventListener("change", () => draw(["fig-curves"]));
  }
  chips();
  draw();
  let wide = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === wide) return; // a phone's bars come and go
    wide = document.documentElement.clientWidth;
    draw();
  });
}
