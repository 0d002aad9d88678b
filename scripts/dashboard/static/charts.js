// Totals, the funnel of the nine steps, and the days.

function drawTotals() {
  const rates = sessions.reduce((sum, session) => sum + session.rate, 0);
  const spent = sessions.reduce((sum, session) => sum + session.spent, 0);
  const finished = sessions.filter((session) => session.rate === 100).length;
  const idle = students.filter((student) => !student.sessions.length).length;
  const open = h("button", { type: "button", class: "link", id: "idle", onclick: showIdle },
    `${n(idle)} without a session`);
  const cards = [
    ["students", "Students", n(students.length), idle ? open : "all with a session"],
    ["sessions", "Sessions", n(sessions.length), `${n(sessions.filter((s) => s.demo).length)} demonstrations`],
    ["active", "Active", n(sessions.filter(STATES.active).length), "usable and not expired"],
    ["finished", "Finished", n(finished), `${percent(finished, sessions.length)} % of all sessions`],
    ["progress", "Average progress", `${Math.round(rates / (sessions.length || 1))} %`, "of nine steps"],
    ["time", "Time spent", `${n(Math.round(spent / 3600))} h`, "in all sessions"],
    ["stuck", "Stuck", n(facts.stuck.active), "active, quiet for a day or more"],
  ];
  $("totals").replaceChildren(...cards.map(([id, title, value, note]) =>
    h("div", {}, h("dt", {}, title), h("dd", {}, h("span", { id: `total-${id}` }, value), h("small", {}, note)))));
}

function drawFunnel() {
  const bar = (count) => {
    const part = h("i");
    part.style.setProperty("--part", `${sessions.length ? (100 * count) / sessions.length : 0}%`);
    return part;
  };
  $("funnel").replaceChildren(
    plainTable(`Of ${many(sessions.length, "session", "sessions")}`,
      ["Step", "Started", "Done", "of started", "Median time", "Mean time"],
      facts.funnel.map((row) => [
        [`${row.step_number} ${row.step_name}`,
          h("div", { class: "bars", "aria-hidden": "true" }, bar(row.started), bar(row.done))],
        row.started, row.done, `${percent(row.done, row.started)} %`,
        duration(row.median_time_spent), duration(row.mean_time_spent),
      ]), [1, 2, 3, 4, 5]),
    h("ul", { class: "legend", "aria-hidden": "true" },
      h("li", { class: "solid" }, h("i"), "done"), h("li", {}, h("i"), "started")));
}

// --- days -----------------------------------------------------------------------------------------

const DAY = 86400000;
const DAYS = 84;
const dayTable = new PagedTable($("day-table"), "All days", [
  { title: "Day", cell: (d) => d[0], sort: (d) => d[0], down: true },
  { title: "Sessions started", cell: (d) => d[1], sort: (d) => d[1], number: true, down: true },
  { title: "Steps completed", cell: (d) => d[2], sort: (d) => d[2], number: true, down: true },
  { title: "Sessions last active", cell: (d) => d[3], sort: (d) => d[3], number: true, down: true },
], { order: 0, page: 14 });

// counts: [date, count] for each day
function dayChart(title, counts) {
  const [width, height, foot] = [480, 150, 20];
  const most = Math.max(...counts.map(([, count]) => count));
  if (!most) return h("figure", {}, h("figcaption", {}, `${title}: none in these 12 weeks`));
  const step = width / counts.length;
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  const bars = counts.flatMap(([date, count], day) => {
    if (!count) return [];
    const size = Math.max(2, ((height - 18) * count) / most);
    return svg("rect", { x: day * step + step * 0.12, y: height - size, width: step * 0.76, height: size, rx: 1 },
      svg("title", {}, `${date}: ${n(count)}`));
  });
  const months = counts.flatMap(([date], day) => (date.endsWith("-01") && day * step < width - 45
    ? svg("text", { x: day * step, y: height + 15 }, date.slice(0, 7)) : []));
  return h("figure", {}, h("figcaption", {}, `${title}, ${n(most)} at most on a day`),
    svg("svg", { viewBox: `0 0 ${width} ${height + foot}`, role: "img",
      "aria-label": `${title}: ${n(total)} from ${counts[0][0]} to ${counts.at(-1)[0]}, ${n(most)} at most on a day` },
    ...bars, ...months, svg("line", { x1: 0, x2: width, y1: height, y2: height })));
}
function drawDays() {
  dayTable.show(facts.days);
  if (!facts.until) {
    $("day-charts").replaceChildren(h("p", { class: "muted" }, "No session has been started, and no step completed."));
    return;
  }
  const known = new Map(facts.days.map((day) => [day[0], day]));
  const last = Date.parse(facts.until);
  const dates = Array.from({ length: DAYS }, (_, day) =>
    new Date(last - (DAYS - 1 - day) * DAY).toISOString().slice(0, 10));
  const counts = (place) => dates.map((date) => [date, known.has(date) ? known.get(date)[place] : 0]);
  $("day-charts").replaceChildren(
    h("p", { class: "muted" }, `The 12 weeks up to ${facts.until}, where the data end.`),
    h("div", { class: "charts" }, dayChart("Steps completed", counts(2)), dayChart("Sessions started", counts(1))));
}
