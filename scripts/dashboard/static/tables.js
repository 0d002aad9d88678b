// Tables. A column is {title, cell(row), sort(row), number, down, class}; down: the first click sorts downwards. Roles
// are explicit because narrow screens lay the rows out as blocks.

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

// A small table without pages; cells are text, numbers or elements.
function plainTable(caption, titles, rows, numeric = []) {
  const columns = titles.map((title, place) => ({ title, number: numeric.includes(place) }));
  return h("div", { class: "scroll plain" }, tableOf(h("caption", {}, caption), columns, titles,
    h("tbody", { role: "rowgroup" }, rows.map((row) => rowOf(columns, row)))));
}

// Sorts its rows and shows one page of them. order: the column that sorts first.
class PagedTable {
  constructor(host, caption, columns, { order = null, page = 25 } = {}) {
    Object.assign(this, { host, columns, page, size: page, start: 0, rows: [], order });
    this.down = order !== null && columns[order].down;
    this.body = h("tbody", { role: "rowgroup" });
    const heads = columns.map(({ title, sort }, place) => (sort
      ? h("button", { type: "button", onclick: () => this.sortBy(place) }, title) : title));
    this.range = h("span", { class: "muted", role: "status" });
    this.back = h("button", { type: "button", onclick: () => this.turn(-1, this.on) }, "Previous");
    this.on = h("button", { type: "button", onclick: () => this.turn(1, this.back) }, "Next");
    this.pager = h("div", { class: "pager" }, this.range, this.back, this.on);
    host.classList.add("list");
    host.replaceChildren(tableOf(h("caption", { class: "unseen" }, caption), columns, heads, this.body), this.pager);
    addEventListener("beforeprint", () => this.print(true));
    addEventListener("afterprint", () => this.print(false));
  }
  show(rows) {
    this.rows = rows;
    this.start = 0;
    if (this.order !== null) this.sort();
    this.draw();
  }
  sortBy(place) {
    this.down = this.order === place ? !this.down : Boolean(this.columns[place].down);
    this.order = place;
    this.show(this.rows);
  }
  sort() {
    const sign = this.down ? -1 : 1;
    const keyed = this.rows.map((row) => [this.columns[this.order].sort(row), row]);
    keyed.sort(([a], [b]) => {
      if (a === b) return 0;
      if (a === null) return 1; // unknown values come last in both directions
      if (b === null) return -1;
      return sign * (typeof a === "string" ? names.compare(a, b) : a - b);
    });
    this.rows = keyed.map(([, row]) => row);
    this.host.querySelectorAll("thead th").forEach((head, place) => {
      if (place === this.order) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }
  draw() {
    const end = Math.min(this.start + this.size, this.rows.length);
    this.body.replaceChildren(...this.rows.slice(this.start, end).map((row) =>
      rowOf(this.columns, this.columns.map(({ cell }) => cell(row)))));
    this.range.textContent = `Rows ${n(this.start + 1)} to ${n(end)} of ${n(this.rows.length)}`;
    this.back.disabled = this.start === 0;
    this.on.disabled = end === this.rows.length;
    this.pager.hidden = this.rows.length <= this.page;
  }
  turn(pages, other) {
    this.start += pages * this.size;
    this.draw();
    this.host.scrollIntoView({ block: "nearest" });
    if (document.activeElement === document.body || document.activeElement.disabled) other.focus();
  }
  // prints up to 1000 rows; of a longer table the page shown
  print(begins) {
    if (this.rows.length > 1000) return;
    this.size = begins ? 1000 : this.page;
    this.start = 0;
    this.draw();
  }
}
