// Sortable tables. A cell is sorted by its data-value (not a number: last), else by its text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...sorted([...body.rows], column, down ? -1 : 1));
    });
  });
}

function sorted(rows, column, sign) {
  const number = (row) => Number(row.cells[column].dataset.value);
  const text = (row) => row.cells[column].textContent;
  return rows.sort((a, b) => {
    if (!("value" in a.cells[column].dataset)) return sign * text(a).localeCompare(text(b), "en", { numeric: true });
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  });
}

// Charts: each takes the place of its static picture, which is kept for print and for the button beside it.
// `ast` has Vega interpret its expressions, so that no script needs to be made at run time.
const dark = matchMedia("(prefers-color-scheme: dark)");
const main = document.querySelector("main");
const content = (id) => JSON.parse(document.getElementById(id).textContent);

// Width of a panel with its axis, in pixels: as many stand beside each other as there is room for.
const PANEL = 335;

const room = () => Math.max(1, Math.floor(main.clientWidth / PANEL));

async function draw(chart) {
  const spec = content(chart.dataset.chart);
  const config = content("chart-configs")[dark.matches ? "dark" : "light"];
  if (dark.matches) spec.params.find((one) => one.name === "colours").value = spec.usermeta.dark;
  spec.columns = Math.min(spec.columns, room());
  await window.vegaEmbed(chart.lastElementChild, spec, { actions: false, ast: true, renderer: "svg", config });
}

function show(figure, interactive) {
  figure.querySelector(".chart").hidden = !interactive;
  figure.querySelector(".static").hidden = interactive;
  figure.querySelector(".swap").setAttribute("aria-pressed", String(!interactive));
}

const charts = [...document.querySelectorAll(".chart")];
for (const chart of charts) {
  const figure = chart.closest("figure");
  const button = figure.querySelector(".swap");
  show(figure, true);
  try {
    await draw(chart);
  } catch (error) {
    console.error(error);
    show(figure, false);
    continue;
  }
  button.hidden = false;
  button.addEventListener("click", () => show(figure, chart.hidden));
}
dark.addEventListener("change", () => charts.forEach(draw));
let drawn = room();
addEventListener("resize", () => {
  if (room() === drawn) return;
  drawn = room();
  charts.forEach(draw);
});
document.documentElement.dataset.ready = "";
