// Draws every chart in the reader's colours, switches metric and scale, shows a point's trial, sorts tables.
// All text that a user named enters through textContent or as data of a chart: never as markup.
(() => { // of a page that was written while a sweep ran: how long ago, and whether it should have been written again
  const note = document.querySelector(".interim[data-written]");
  if (!note) return;
  const units = [[86400, "days"], [3600, "h"], [60, "min"], [1, "s"]];
  const show = () => {
    const seconds = Date.now() / 1000 - Number(note.dataset.written);
    if (seconds < 0) return; // the clocks differ
    const [size, unit] = units.find(([least]) => seconds >= 2 * least) ?? units.at(-1);
    note.querySelector(".age").textContent = `, ${Math.round(seconds / size)} ${unit} ago`;
    note.querySelector(".overdue").hidden = seconds <= Number(note.dataset.due);
  };
  show();
  setInterval(show, 10000);
  document.addEventListener("visibilitychange", show);
})();

(() => {
  const { tasks, charts } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const MANY = 400; // points; more are drawn on a canvas, which stays quick
  const LIGHT = { ink: "#1c2024", soft: "#4d5560", line: "#dfe1e4" };
  const views = {};
  const states = tasks.map((task) => ({ ...task.chosen, hidden: new Set(), picked: "" }));
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const element = (tag, text = "", attributes = {}) => {
    const made = Object.assign(document.createElement(tag), attributes);
    if (text !== "") made.textContent = text;
    return made;
  };
  const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
  const signed = (value) => (value == null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}`);

  // --- data: columns in, rows out

  const cell = (column, i) => column.levels[column.codes[i]];

  const rowsOf = (task, state) => {
    const scores = task.metrics[state.metric];
    const view = task.views[state.metric][state.scale];
    const rows = [];
    for (let i = 0; i < task.columns.trial.codes.length; i += 1) {
      if (view.x[i] == null) continue; // this point has no score in this metric
      const er = view.er[i];
      const row = { index: i, trial: cell(task.columns.trial, i), group: cell(task.columns.group, i), x: view.x[i], y: view.y[i],
        id: scores.id[i], ood: scores.ood[i], er, expected_ood: er == null ? null : view.expected_ood[i],
        extrapolated: Boolean(view.extrapolated[i]) };
      for (const [field, name] of Object.entries(task.keys)) row[field] = cell(task.columns[name], i);
      rows.push(row);
    }
    return rows;
  };

  const filled = (id) => {
    const { task: number, spec } = charts[id];
    const task = tasks[number];
    const state = states[number];
    const { datasets, params } = task.views[state.metric][state.scale];
    const chosen = { ...params, shown: shown(number), picked: state.picked };
    return { ...spec, datasets: { ...spec.datasets, ...datasets, points: rowsOf(task, state) },
      params: (spec.params || []).map((p) => (p.name in chosen ? { ...p, value: chosen[p.name] } : p)) };
  };

  const shown = (number) =>
    tasks[number].columns.group.levels.filter((group) => !states[number].hidden.has(group));

  // --- drawing

  const look = (colours, width = 640) => {
    const { ink, soft, line } = colours;
    const font = getComputedStyle(document.documentElement).getPropertyValue("--sans");
    const axis = { labelColor: soft, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
      labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500, titlePadding: 10, gridOpacity: 0.6 };
    const legend = { labelColor: ink, labelFontSize: 12, titleColor: ink, symbolOpacity: 1,
      layout: { bottom: { direction: "vertical", margin: 2 } } };
    const axisY = { labelLimit: Math.min(260, Math.max(178, 0.36 * width)) };
    return { font, axis, axisY, legend, view: { stroke: null }, background: "transparent" };
  };

  const ofPage = () => {
    const css = getComputedStyle(document.documentElement);
    return Object.fromEntries(["ink", "soft", "line"].map((name) => [name, css.getPropertyValue(`--${name}`).trim()]));
  };

  const draw = async (id) => {
    const place = document.getElementById(id);
    const spec = filled(id);
    const height = place.offsetHeight;
    if (height) place.style.minHeight = `${height}px`; // the page does not jump while a chart is drawn again
    const made = await vegaEmbed(place, { ...spec, autosize: { type: "fit-x", contains: "padding" } },
      { config: look(ofPage(), place.offsetWidth), renderer: spec.datasets.points.length > MANY ? "canvas" : "svg", actions: false,
        tooltip: { theme: dark.matches ? "dark" : "light" } });
    place.style.minHeight = "";
    views[id]?.finalize();
    views[id] = made.view;
    made.view.addEventListener("click", (_, item) => pick(charts[id].task, item?.datum?.trial ?? ""));
  };

  const drawAll = async (number = null) => {
    for (const id of Object.keys(charts)) {
      if (number !== null && charts[id].task !== number) continue;
      try {
        await draw(id);
      } catch (error) { // the other charts are drawn all the same
        document.getElementById(id).textContent = "This figure could not be drawn.";
        window.reportError(error);
      }
    }
    document.documentElement.dataset.drawn = String(Math.round(performance.now()));
  };

  const signal = (number, name, value) => {
    for (const [id, view] of Object.entries(views)) {
      if (charts[id].task === number && (charts[id].spec.params || []).some((p) => p.name === name)) view.signal(name, value).runAsync();
    }
  };

  const save = async (id, kind) => {
    const box = document.createElement("div");
    const spec = { ...filled(id), width: 640, background: "white" };
    const { view } = await vegaEmbed(box, spec, { config: { ...look(LIGHT), background: "white" }, actions: false });
    const link = element("a", "", { download: `${id}.${kind}` });
    link.href = kind === "svg" ? URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" }))
      : await view.toImageURL("png", 3);
    link.click();
    view.finalize();
  };

  // --- a point's trial

  const pick = (number, trial) => {
    const state = states[number];
    state.picked = trial === state.picked ? "" : trial;
    const chooser = document.querySelector(`.tools[data-task="${number}"] select[data-set="picked"]`);
    chooser.value = state.picked;
    signal(number, "picked", state.picked);
    detail(number);
  };

  const detail = (number) => {
    const panel = document.querySelector(`.detail[data-task="${number}"]`);
    const task = tasks[number];
    const state = states[number];
    panel.hidden = !state.picked;
    panel.replaceChildren();
    if (!state.picked) return;
    const rows = rowsOf(task, state).filter((row) => row.trial === state.picked);
    const heading = element("h3");
    heading.append(element("bdi", state.picked));
    const close = element("button", "Close", { type: "button", className: "close" });
    close.addEventListener("click", () => pick(number, state.picked));
    const facts = element("dl", "", { className: "facts" });
    const add = (name, value) => {
      const pair = element("div");
      const text = element("dd");
      text.append(element("bdi", value));
      pair.append(element("dt", name), text);
      facts.append(pair);
    };
    const indices = rows.map((row) => row.index);
    const varying = [];
    for (const [name, column] of Object.entries(task.columns)) {
      if (name === "trial") continue;
      const values = [...new Set(indices.map((i) => cell(column, i)))].filter((value) => value != null && value !== "");
      if (values.length === 1) add(name.replaceAll("_", " "), values[0]);
      else if (values.length > 1) varying.push(name);
    }
    if (task.logs[state.picked]) {
      const pair = element("div");
      const text = element("dd");
      const { href, text: path } = task.logs[state.picked];
      text.append(href ? element("a", path, { href }) : element("bdi", path));
      pair.append(element("dt", "log"), text);
      facts.append(pair);
    }
    const table = element("table");
    const head = element("tr");
    for (const name of [...varying.map((n) => n.replaceAll("_", " ")), "ID", "OOD", "expected OOD", "ER"])
      head.append(element("th", name, { scope: "col" }));
    table.append(element("thead"), element("tbody"));
    table.tHead.append(head);
    for (const row of rows) {
      const line = element("tr");
      for (const name of varying) line.append(element("td", String(cell(task.columns[name], row.index) ?? "–")));
      for (const text of [percent(row.id), percent(row.ood), percent(row.expected_ood),
        signed(row.er) + (row.extrapolated ? " (extrapolated)" : "")]) line.append(element("td", text, { className: "n tight" }));
      table.tBodies[0].append(line);
    }
    const scroll = element("div", "", { className: "scroll", tabIndex: 0 });
    scroll.append(table);
    sortable(table);
    panel.append(close, heading, facts, scroll);
  };

  // --- tables: a press on a column's name sorts by it, another turns the order round

  const value = (text) => {
    const number = Number.parseFloat(text.replaceAll("−", "-").replaceAll("\u202f", "").replace(/^[<(]\s*/, ""));
    return Number.isNaN(number) ? null : number;
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    if (body.rows.length < 2) return;
    all("thead th", table).forEach((head, column) => {
      const button = element("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const order = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
        const numbers = rows.every(({ text }) => text === "–" || value(text) !== null);
        const empty = ({ text }) => text === "–" || text === "";
        rows.sort((a, b) => empty(a) - empty(b) || order * (numbers ? value(a.text) - value(b.text)
          : a.text.localeCompare(b.text, undefined, { numeric: true })));
        body.append(...rows.map(({ row }) => row));
      });
    });
  };

  // --- the tools above a figure

  const switched = (number) => {
    const state = states[number];
    const { metric, label, scale } = tasks[number].chosen;
    const note = document.querySelector(`.other[data-task="${number}"]`);
    const view = tasks[number].views[state.metric][state.scale];
    note.hidden = state.metric === metric && state.scale === scale;
    note.textContent = note.hidden ? "" : `${view.note} To compare only: the verdict is about ${label} on ${scale} axes, as set beforehand.`;
    drawAll(number);
    detail(number);
  };

  for (const tools of all(".tools")) {
    const number = Number(tools.dataset.task);
    tools.addEventListener("click", (event) => {
      const chip = event.target.closest("button[data-group]");
      if (!chip) return;
      const on = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(on));
      states[number].hidden[on ? "delete" : "add"](chip.dataset.group);
      signal(number, "shown", shown(number));
    });
    tools.addEventListener("change", (event) => {
      const { set } = event.target.dataset;
      if (set === "picked") {
        states[number].picked = "";
        pick(number, event.target.value);
      } else if (set) {
        states[number][set] = event.target.value;
        switched(number);
      }
    });
  }
  for (const bar of all(".save")) {
    bar.addEventListener("click", (event) => {
      const kind = event.target.dataset.save;
      if (kind) save(bar.dataset.chart, kind);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    states.forEach((state, number) => state.picked && pick(number, state.picked));
  });
  const open = () => { // a link into a folded part unfolds it
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  all("table").forEach(sortable);
  dark.addEventListener("change", () => drawAll());
  drawAll().then(open);
})();
