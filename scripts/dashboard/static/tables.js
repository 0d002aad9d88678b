// Tables. A column is {title, cell(row), sort(row), number, down, class}; down: the first click sorts
// downwards. Roles are written out because narrow screens lay the rows out as blocks.

const names = new Intl.Collator("en", { sensitivity: "base", numeric: true });

function rowOf(columns, cells) {
  return h("tr", { role: "row" }, cells.map((cell, place) => h(place ? "td" : "th", {
    role: place ? "cell" : "rowheader",
    scope: place ? null : "row",
    class: [columns[place].number ? "number" : "", columns[place].class || ""].join(" ").trim() || null,
    "data-label": place ? columns[place].title : null,
  }, h("div", {}, typeof cell === "number" ? n(cell) : cell))));
}
function tableOf(caption, columns, heads, body) {
  return h("table", { role: "table" }, caption,
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(({ title, number }, place) =>
      h("th", { scope: "col", role: "columnheader", class: number ? "number" : null }, heads[place])))),
    body);
}

// A small table, whole; cells are text, numbers or elements.
function plainTable(caption, titles, rows, numeric = []) {
  const columns = titles.map((title, place) => ({ title, number: numeric.includes(place) }));
  return h("div", { class: "scroll plain" }, tableOf(h("caption", {}, caption), columns, titles,
    h("tbody", { role: "rowgroup" }, rows.map((row) => rowOf(columns, row)))));
}

// A table that sorts its rows and shows one page of them; order: the column that sorts first.
function makeTable(host, caption, columns, { order = null, page = 25 } = {}) {
  let rows = [];
  let start = 0;
  let size = page;
  let [sorted, down] = [order, order !== null && columns[order].down];
  const body = h("tbody", { role: "rowgroup" });
  const table = tableOf(h("caption", { class: "unseen" }, caption), columns,
    columns.map(({ title, sort }, place) => (sort
      ? h("button", { type: "button", onclick: () => sortBy(place) }, title) : title)), body);
  const shown = h("span", { class: "muted", role: "status" });
  const back = h("button", { type: "button", onclick: () => turn(start - size, on) }, "Previous");
  const on = h("button", { type: "button", onclick: () => turn(start + size, back) }, "Next");
  const pager = h("div", { class: "pager" }, shown, back, on);
  host.classList.add("list");
  host.replaceChildren(table, pager);

  function sortBy(place) {
    down = sorted === place ? !down : Boolean(columns[place].down);
    sorted = place;
    arrange();
  }
  function arrange() {
    table.querySelectorAll("thead th").forEach((head, place) => {
      if (place === sorted) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    if (sorted !== null) {
      const sign = down ? -1 : 1;
      const keyed = rows.map((row) => [columns[sorted].sort(row), row]);
      keyed.sort(([a], [b]) => {
        if (a === b) return 0;
        if (a === null) return 1; // unknown values come last in both directions
        if (b === null) return -1;
        return sign * (typeof a === "string" ? names.compare(a, b) : a - b);
      });
      rows = keyed.map(([, row]) => row);
    }
    start = 0;
    draw();
  }
  function draw() {
    const end = Math.min(start + size, rows.length);
    body.replaceChildren(...rows.slice(start, end).map((row) => rowOf(columns, columns.map(({ cell }) => cell(row)))));
    shown.textContent = `Rows ${n(start + 1)} to ${n(end)} of ${n(rows.length)}`;
    back.disabled = start === 0;
    on.disabled = end === rows.length;
    pager.hidden = rows.length <= page;
  }
  function turn(to, other) {
    start = to;
    draw();
    host.scrollIntoView({ block: "nearest" });
    if (document.activeElement === document.body || document.activeElement.disabled) other.focus();
  }
  // print up to 1000 rows; of a longer table the page that is shown
  addEventListener("beforeprint", () => { if (rows.length <= 1000) { [start, size] = [0, 1000]; draw(); } });
  addEventListener("afterprint", () => { size = page; draw(); });
  return (all) => { rows = all; arrange(); };
}
