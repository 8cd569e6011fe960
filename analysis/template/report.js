// Draws every chart in the reader's colours, and lets the chips above the figure show and hide groups.
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const hidden = {};
  const views = {};

  const look = () => {
    const css = getComputedStyle(document.documentElement);
    const ink = css.getPropertyValue("--ink").trim();
    const soft = css.getPropertyValue("--soft").trim();
    const line = css.getPropertyValue("--line").trim();
    const axis = { labelColor: soft, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
      labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500, titlePadding: 10, gridOpacity: 0.6 };
    return { background: "transparent", font: css.getPropertyValue("--sans"), axis, view: { stroke: null } };
  };

  const show = (id) => {
    const view = views[id];
    const chips = [...document.querySelectorAll(`.chips[data-chart="${id}"] button`)];
    if (!view || !chips.length) return;
    const on = chips.filter((chip) => !hidden[id]?.has(chip.dataset.group)).map((chip) => chip.dataset.group);
    view.signal("shown", on).runAsync();
  };

  const draw = async () => {
    for (const [id, spec] of Object.entries(specs)) {
      const place = document.getElementById(id);
      const actions = { export: true, source: false, compiled: false, editor: false };
      const made = await vegaEmbed(place, { ...spec, autosize: { type: "fit-x", contains: "padding" } },
        { config: look(), renderer: "svg", actions, downloadFileName: id, theme: undefined,
          tooltip: { theme: dark.matches ? "dark" : "light" } });
      views[id] = made.view;
      show(id);
    }
  };

  for (const group of document.querySelectorAll(".chips")) {
    const id = group.dataset.chart;
    hidden[id] = new Set();
    group.addEventListener("click", (event) => {
      const chip = event.target.closest("button");
      if (!chip) return;
      const on = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(on));
      hidden[id][on ? "delete" : "add"](chip.dataset.group);
      show(id);
    });
  }
  dark.addEventListener("change", draw);
  draw();
})();
