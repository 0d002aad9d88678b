"use strict";
// The dashboard in the browser. What people typed reaches the page as text only: h() makes elements,
// nothing here parses HTML.
(() => {
  const $ = (id) => document.getElementById(id);
  const live = document.documentElement.dataset.mode === "live";

  // --- small things -------------------------------------------------------------------------------

  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "onclick") element.addEventListener("click", value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }
  function svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  const numbers = new Intl.NumberFormat("en");
  const n = (value) => numbers.format(value);
  const many = (count, one, more) => `${n(count)} ${count === 1 ? one : more}`;
  const names = new Intl.Collator("en", { sensitivity: "base", numeric: true });

  // Seconds since 1970 in UTC; a year that JavaScript cannot count shows as it is.
  function time(seconds) {
    if (seconds === null) return "unknown";
    const date = new Date(seconds * 1000);
    return Number.isNaN(date.getTime()) ? "out of range" : date.toISOString().slice(0, 16).replace("T", " ");
  }
  function duration(seconds) {
    if (seconds === null) return "-";
    const minutes = Math.round(seconds / 60);
    if (seconds < 60) return `${Math.round(seconds)} s`;
    if (minutes < 60) return `${minutes} min`;
    return `${n(Math.floor(minutes / 60))} h ${minutes % 60} min`;
  }
  // 0 seconds means that nobody told the time
  const spentText = (seconds) => (seconds ? duration(seconds) : "-");
  const percent = (part, whole) => (whole ? Math.round((100 * part) / whole) : 0);

  function say(text) {
    $("message").textContent = text;
    $("message").hidden = !text;
  }

  // --- the data -----------------------------------------------------------------------------------

  // In the order in which the server's query writes them.
  const SESSION = ["token", "rate", "at", "spent", "done", "flags", "steps", "started", "last", "expires",
    "active", "demo", "key", "prompt", "tools", "phone", "voice", "provider", "direction", "useCase"];

  let facts = null;
  let students = [];
  let sessions = [];
  let byId = new Map();

  function take(data) {
    facts = data.facts;
    sessions = [];
    students = data.students.map(([id, email, name, github, rows]) => {
      const student = { id, email, name, github, sessions: [], rate: 0, spent: 0, last: null };
      for (const row of rows) {
        const session = { student, number: student.sessions.length + 1 };
        SESSION.forEach((field, place) => { session[field] = row[place]; });
        session.steps = new Map(session.steps.map(([step, spent, attempts]) => [step, { spent, attempts }]));
        session.next = 1;
        while (session.done.includes(session.next)) session.next += 1;
        student.sessions.push(session);
        sessions.push(session);
        student.rate = Math.max(student.rate, session.rate);
        student.spent += session.spent;
        if (session.last !== null && session.last > (student.last ?? -Infinity)) student.last = session.last;
      }
      student.text = [email, name, github].join("\n").toLowerCase();
      for (const session of student.sessions) {
        session.text = [student.text, session.token, session.phone, session.voice, session.useCase]
          .join("\n").toLowerCase();
      }
      return student;
    });
    byId = new Map(students.map((student) => [student.id, student]));
  }

  const stepName = (step) => (step > 9 ? "finished" : `${step} ${facts.steps[step - 1]}`);
  const called = (student) => student.name || student.email;
  const isBegun = (session, step) => session.steps.has(step)
    || facts.flags.some(([, of], place) => of === step && session.flags[place] === "1");

  // --- pieces -------------------------------------------------------------------------------------

  function studentLink(student) {
    return [
      h("a", { href: `#student/${student.id}` }, called(student)),
      student.name && student.name !== student.email ? h("small", {}, student.email) : null,
    ];
  }
  function rateBar(rate) {
    return h("span", { class: "rate" },
      h("progress", { max: 100, value: rate, "aria-label": "Progress" }), `${rate} %`);
  }
  function dots(session) {
    const begun = facts.steps.map((_, place) => place + 1)
      .filter((step) => !session.done.includes(step) && isBegun(session, step));
    const label = `Steps done: ${session.done.join(", ") || "none"}${begun.length ? `; begun: ${begun.join(", ")}` : ""}`;
    return h("span", { class: "dots", role: "img", "aria-label": label, title: label },
      facts.steps.map((_, place) => {
        const step = place + 1;
        const state = session.done.includes(step) ? "done" : begun.includes(step) ? "begun" : "";
        return h("i", { class: state || null });
      }));
  }
  function configuration(session) {
    const has = [["key", "key"], ["prompt", "prompt"], ["tools", "tools"]];
    return [
      h("span", { class: "under" }, [session.phone, session.direction].filter(Boolean).join(", ") || "no phone number"),
      session.voice || session.provider
        ? h("span", { class: "under" }, [session.voice, session.provider].filter(Boolean).join(", ")) : null,
      h("ul", { class: "chips", "aria-label": "Has" },
        has.map(([field, label]) => h("li", { class: session[field] ? "on" : null },
          h("span", { "aria-hidden": "true" }, session[field] ? "✓ " : "– "),
          h("span", { class: "unseen" }, session[field] ? "has " : "no "), label))),
    ];
  }
  function timeText(seconds) {
    return h("span", { class: "nowrap" }, time(seconds));
  }

  // A table that shows a page of its rows; columns: [title, cell(row), {sort, number}].
  // Roles are spelled out because narrow screens lay the rows out as blocks.
  function makeTable(host, caption, columns, { order = null, page = 25 } = {}) {
    let rows = [];
    let shown = [];
    let start = 0;
    let size = page;
    let sort = order;
    const body = h("tbody", { role: "rowgroup" });
    const heads = columns.map(([title, , options = {}], place) => {
      const head = h("th", { scope: "col", role: "columnheader", class: options.number ? "number" : null });
      if (options.sort) {
        head.append(h("button", { type: "button", onclick: () => {
          const down = sort && sort[0] === place ? !sort[1] : Boolean(options.down);
          sort = [place, down];
          start = 0;
          arrange();
        } }, title));
      } else {
        head.append(title);
      }
      return head;
    });
    const pager = h("div", { class: "pager" });
    host.classList.add("list");
    host.replaceChildren(
      h("table", { role: "table" },
        h("caption", { class: "unseen" }, caption),
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), body),
      pager);

    function arrange() {
      shown = rows;
      heads.forEach((head, place) => {
        if (sort && sort[0] === place) head.setAttribute("aria-sort", sort[1] ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      if (sort) {
        const key = columns[sort[0]][2].sort;
        const keyed = rows.map((row) => [key(row), row]);
        const sign = sort[1] ? -1 : 1;
        keyed.sort(([a], [b]) => {
          if (a === b) return 0;
          if (a === null) return 1; // what is unknown comes last, whatever the direction
          if (b === null) return -1;
          return sign * (typeof a === "string" ? names.compare(a, b) : a - b);
        });
        shown = keyed.map(([, row]) => row);
      }
      draw();
    }
    function draw() {
      body.replaceChildren(...shown.slice(start, start + size).map((row) => h("tr", { role: "row" },
        columns.map(([title, cell, options = {}], place) => h(place ? "td" : "th", {
          role: place ? "cell" : "rowheader",
          scope: place ? null : "row",
          class: [options.number ? "number" : "", options.class || ""].join(" ").trim() || null,
          "data-label": place ? title : null,
        }, h("div", {}, cell(row)))))));
      const end = Math.min(start + size, shown.length);
      const turn = (to, label) => h("button", {
        type: "button",
        disabled: to < 0 || to >= shown.length,
        onclick: () => {
          start = to;
          draw();
          host.scrollIntoView({ block: "nearest" });
          // the buttons are new ones: the same one has the focus again, or the one that is left
          const [back, on] = pager.querySelectorAll("button");
          (label === "Next" ? [on, back] : [back, on]).find((button) => !button.disabled).focus();
        },
      }, label);
      pager.replaceChildren(...(shown.length <= page ? [] : [
        h("span", { class: "muted", role: "status" }, `Rows ${n(start + 1)} to ${n(end)} of ${n(shown.length)}`),
        turn(start - size, "Previous"),
        turn(start + size, "Next"),
      ]));
    }
    return {
      set(all) { rows = all; start = 0; arrange(); },
      // for print: everything where that is bearable, else the page that is shown
      expand(on) { if (shown.length <= 1000) { size = on ? 1000 : page; if (on) start = 0; draw(); } },
    };
  }

  // A small table as a whole; cells are text, numbers or elements.
  function plainTable(caption, titles, rows, numeric = []) {
    const kind = (place) => (numeric.includes(place) ? "number" : null);
    return h("div", { class: "scroll plain" }, h("table", { role: "table" },
      h("caption", {}, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, titles.map((title, place) =>
        h("th", { scope: "col", role: "columnheader", class: kind(place) }, title)))),
      h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, row.map((value, place) =>
        h(place ? "td" : "th", {
          scope: place ? null : "row",
          role: place ? "cell" : "rowheader",
          class: kind(place),
          "data-label": place ? titles[place] : null,
        }, typeof value === "number" ? n(value) : value)))))));
  }

  // --- overview -----------------------------------------------------------------------------------

  function drawTotals() {
    const finished = sessions.filter((session) => session.rate === 100).length;
    const mean = sessions.length ? sessions.reduce((sum, session) => sum + session.rate, 0) / sessions.length : 0;
    const spent = sessions.reduce((sum, session) => sum + session.spent, 0);
    const idle = students.filter((student) => !student.sessions.length).length;
    const cards = [
      ["students", "Students", n(students.length), idle ? `${n(idle)} without a session` : "all with a session"],
      ["sessions", "Sessions", n(sessions.length), `${n(sessions.filter((session) => session.demo).length)} demonstrations`],
      ["active", "Active", n(sessions.filter((s) => s.active).length), "usable and not expired"],
      ["finished", "Finished", n(finished), `${percent(finished, sessions.length)} % of all sessions`],
      ["progress", "Average progress", `${Math.round(mean)} %`, "of nine steps"],
      ["time", "Time spent", `${n(Math.round(spent / 3600))} h`, "in all sessions"],
      ["stuck", "Stuck", n(facts.stuck.active), "active, quiet for a day or more"],
    ];
    $("totals").replaceChildren(...cards.map(([id, title, value, note]) =>
      h("div", {}, h("dt", {}, title), h("dd", {}, h("span", { id: `total-${id}` }, value), h("small", {}, note)))));
  }

  // --- sessions and students ----------------------------------------------------------------------

  const sessionTable = makeTable($("session-table"), "Sessions", [
    ["Student", (s) => [...studentLink(s.student), h("small", {},
      h("a", { href: `#student/${s.student.id}/${s.number}` }, `session …${s.token}`), s.demo ? ", demonstration" : "")],
      { sort: (s) => called(s.student), class: "who" }],
    ["Progress", (s) => [rateBar(s.rate), dots(s)], { sort: (s) => s.rate, down: true }],
    ["At step", (s) => String(s.at), { sort: (s) => s.at, number: true, down: true }],
    ["Time spent", (s) => spentText(s.spent), { sort: (s) => s.spent, number: true, down: true }],
    ["Last activity", (s) => [timeText(s.last), h("span", { class: "under" }, s.active ? "active" : "expired")],
      { sort: (s) => s.last, down: true }],
    ["Configuration", configuration],
    ["Use case", (s) => h("span", { class: "clip" }, s.useCase || "-")],
  ], { order: [4, true] });
  const studentTable = makeTable($("student-table"), "Students", [
    ["Student", (s) => studentLink(s), { sort: called, class: "who" }],
    ["Sessions", (s) => n(s.sessions.length), { sort: (s) => s.sessions.length, number: true, down: true }],
    ["Best progress", (s) => rateBar(s.rate), { sort: (s) => s.rate, down: true }],
    ["Time spent", (s) => spentText(s.spent), { sort: (s) => s.spent, number: true, down: true }],
    ["Last activity", (s) => timeText(s.last), { sort: (s) => s.last, down: true }],
    ["GitHub", (s) => s.github || "-"],
  ], { order: [0, false] });

  const STATES = {
    all: () => true,
    active: (s) => s.active,
    unfinished: (s) => s.rate < 100,
    finished: (s) => s.rate === 100,
    untouched: (s) => s.rate === 0,
    demo: (s) => s.demo,
  };
  function filter() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = STATES[$("state").value];
    const next = Number($("next").value);
    const listed = $("filter").elements.list.value;
    $("session-table").hidden = listed !== "sessions";
    $("student-table").hidden = listed !== "students";
    const fits = (s) => state(s) && (!next || s.next === next);
    if (listed === "sessions") {
      const found = sessions.filter((s) => fits(s) && words.every((word) => s.text.includes(word)));
      sessionTable.set(found);
      $("count").textContent = `${n(found.length)} of ${many(sessions.length, "session", "sessions")}`;
    } else {
      // a student is found by anything that one of the sessions has
      const any = $("state").value === "all" && !next;
      const found = students.filter((student) => (any || student.sessions.some(fits))
        && (words.every((word) => student.text.includes(word))
          || student.sessions.some((s) => fits(s) && words.every((word) => s.text.includes(word)))));
      studentTable.set(found);
      $("count").textContent = `${n(found.length)} of ${many(students.length, "student", "students")}`;
    }
  }
  let waiting = 0;
  $("filter").addEventListener("input", (event) => {
    clearTimeout(waiting);
    if (event.target.id === "search") waiting = setTimeout(filter, 150); // not for every key
    else filter();
  });
  $("filter").addEventListener("reset", () => setTimeout(filter));
  $("filter").addEventListener("submit", (event) => event.preventDefault());

  // --- steps and days -----------------------------------------------------------------------------

  function drawFunnel() {
    const whole = sessions.length;
    const bar = (row) => {
      const [started, done] = [h("i"), h("i")];
      started.style.setProperty("--part", `${whole ? (100 * row.started) / whole : 0}%`);
      done.style.setProperty("--part", `${whole ? (100 * row.done) / whole : 0}%`);
      return h("div", { class: "bars", "aria-hidden": "true" }, started, done);
    };
    $("funnel").replaceChildren(
      plainTable(`Of ${many(whole, "session", "sessions")}`,
        ["Step", "Started", "Done", "of started", "Median time", "Mean time"],
        facts.funnel.map((row) => [
          h("div", {}, `${row.step_number} ${row.step_name}`, bar(row)), row.started, row.done,
          `${percent(row.done, row.started)} %`, duration(row.median_time_spent), duration(row.mean_time_spent),
        ]), [1, 2, 3, 4, 5]),
      h("ul", { class: "legend", "aria-hidden": "true" },
        h("li", { class: "solid" }, h("i"), "done"), h("li", {}, h("i"), "started")));
  }

  const DAY = 86400000;
  const WEEKS = 12;
  const dayTable = makeTable($("day-table"), "All days", [
    ["Day", (d) => d[0], { sort: (d) => d[0] }],
    ["Sessions started", (d) => n(d[1]), { sort: (d) => d[1], number: true, down: true }],
    ["Steps completed", (d) => n(d[2]), { sort: (d) => d[2], number: true, down: true }],
    ["Sessions last active", (d) => n(d[3]), { sort: (d) => d[3], number: true, down: true }],
  ], { order: [0, true], page: 14 });

  function dayChart(title, known, first, place) {
    const [width, height, foot] = [480, 150, 20];
    const counts = Array.from({ length: WEEKS * 7 }, (_, day) => {
      const date = new Date(first + day * DAY).toISOString().slice(0, 10);
      return [date, known.has(date) ? known.get(date)[place] : 0];
    });
    const most = Math.max(1, ...counts.map(([, count]) => count));
    const step = width / counts.length;
    const total = counts.reduce((sum, [, count]) => sum + count, 0);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height + foot}`, role: "img",
      "aria-label": `${title}: ${n(total)} from ${counts[0][0]} to ${counts.at(-1)[0]}, ${n(most)} at most on a day` });
    counts.forEach(([date, count], day) => {
      const size = count ? Math.max(2, ((height - 18) * count) / most) : 0;
      const bar = svg("rect", { x: day * step + step * 0.12, y: height - size, width: step * 0.76, height: size, rx: 1 });
      const label = document.createElementNS("http://www.w3.org/2000/svg", "title");
      label.textContent = `${date}: ${n(count)}`;
      bar.append(label);
      if (count) picture.append(bar);
      if ((date.endsWith("-01") || day === 0) && day * step < width - 45) {
        const text = svg("text", { x: day * step, y: height + 15 });
        text.textContent = date.endsWith("-01") ? date.slice(0, 7) : date;
        // the first label makes room where a month begins right after it
        if (day || !counts.slice(1, 17).some(([other]) => other.endsWith("-01"))) picture.append(text);
      }
    });
    picture.append(svg("line", { x1: 0, x2: width, y1: height, y2: height }));
    return h("figure", {}, h("figcaption", {}, `${title}, ${n(most)} at most on a day`), picture);
  }
  function drawDays() {
    dayTable.set(facts.days);
    // a clock that is wrong must not take the window into an empty future
    const today = new Date(facts.made * 1000).toISOString().slice(0, 10);
    const past = facts.days.filter(([day]) => /^\d{4}-\d\d-\d\d$/.test(day) && day <= today);
    if (!past.length) {
      $("day-charts").replaceChildren(h("p", { class: "muted" }, "Nothing has happened yet."));
      return;
    }
    const last = Date.parse(past.at(-1)[0]);
    const first = last - (WEEKS * 7 - 1) * DAY;
    const known = new Map(past.map((day) => [day[0], day]));
    $("day-charts").replaceChildren(
      h("p", { class: "muted" }, `The ${WEEKS} weeks up to ${past.at(-1)[0]}, the last day on which something happened.`),
      h("div", { class: "charts" },
        dayChart("Steps completed", known, first, 2), dayChart("Sessions started", known, first, 1)));
  }

  // --- stuck --------------------------------------------------------------------------------------

  const stuckTable = makeTable($("stuck-table"), "Stuck sessions", [
    ["Student", (s) => [
      h("a", { href: `#student/${s.row_id}` }, s.student_name || s.student_email),
      s.student_name && s.student_name !== s.student_email ? h("small", {}, s.student_email) : null,
      h("small", {}, `session …${s.token_end}${s.demo_mode ? ", demonstration" : ""}`)],
    { sort: (s) => s.student_name || s.student_email, class: "who" }],
    ["Next step", (s) => `${s.next_step} ${s.next_step_name}`, { sort: (s) => s.next_step }],
    ["Attempts", (s) => n(s.attempts), { sort: (s) => s.attempts, number: true, down: true }],
    ["Time in it", (s) => spentText(s.time_spent), { sort: (s) => s.time_spent, number: true, down: true }],
    ["Quiet for", (s) => (s.quiet_days === null ? "unknown" : many(s.quiet_days, "day", "days")),
      { sort: (s) => s.quiet_days, number: true }],
    ["Progress", (s) => rateBar(s.completion_rate), { sort: (s) => s.completion_rate, down: true }],
    ["State", (s) => (s.is_active ? "active" : "expired"), { sort: (s) => Number(s.is_active), down: true }],
  ], { page: 10 });

  function drawStuck() {
    const { count, active, rows } = facts.stuck;
    const listed = rows.length < count ? ` The ${n(rows.length)} that were active last are listed.` : "";
    $("stuck-note").textContent = count
      ? `${many(count, "unfinished session has", "unfinished sessions have")} been quiet for a day or more, `
        + `${n(active)} of them still active.${listed}`
      : "No unfinished session has been quiet for a day or more.";
    $("stuck-table").hidden = !count;
    stuckTable.set(rows);
  }

  // --- migration ----------------------------------------------------------------------------------

  const mark = (met) => (met === null
    ? h("span", { class: "muted" }, "look for yourself")
    : h("span", { class: met ? "good" : "bad" }, met ? "✓ yes" : "✗ NO"));

  function verification(report) {
    if (report === null) {
      return [h("p", {}, h("button", { type: "button", id: "verify", onclick: verify }, "Verify now"))];
    }
    if (report.problem) return [h("p", { class: "warm" }, `Not verified: ${report.problem}`)];
    return [
      h("p", { class: `verdict ${report.ok ? "good" : "bad"}`, id: "verdict" },
        report.ok ? "✓ Every check holds." : "✗ NOT OK: see the checks."),
      report.checks.length
        ? plainTable("Checks: expected by the old tables, found in the new ones", ["Check", "Expected", "Found", "Holds"],
          report.checks.map((c) => [c.check_name, c.expected, c.actual, mark(c.ok)]), [1, 2])
        : h("p", { class: "muted" }, "A fresh install: no old table to compare with."),
      h("h3", {}, "Success criteria"),
      plainTable("As the migration guide lists them", ["Criterion", "Met"],
        Object.entries(report.criteria).map(([name, met]) => [name, mark(met)])),
    ];
  }
  function drawMigration() {
    const m = facts.migration;
    const list = [
      ["Database", facts.database],
      ["Revision", m.revision === m.head ? `${m.revision} (the latest)` : m.revision],
      ["As of", time(facts.made)],
      ["Next", m.next],
      ...m.tables.map(([name, relation]) => [name, relation === name ? "in use" : `a view over ${relation}`]),
      ...(m.bridged ? [
        ["Writes are carried over", m.syncs_at_once ? "at once" : "with the next revision"],
        ["Waiting to be carried over", `${n(m.pending.legacy)} from the old tables, ${n(m.pending.unified)} from the new ones`],
        ["Sessions on one side only", `${n(m.drift.not_in_unified || 0)} in the old tables, ${n(m.drift.not_in_legacy || 0)} in the new ones`],
        ["Kept aside", `${many(m.kept, "value", "values")} that the old tables cannot say`],
      ] : []),
    ];
    const merges = facts.merges.map(([at, counts]) => [time(at), ...counts.map((count) => count ?? "-")]);
    $("migration-body").replaceChildren(...[
      m.problems.map((problem) => h("p", { class: "note bad" }, `A person is needed: ${problem}`)),
      h("dl", { class: "facts" }, list.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      h("h3", {}, "Before and after"),
      h("div", { class: "columns" },
        m.before.length
          ? plainTable("Old tables", ["Table", "Rows now"], m.before.map(([name, rows]) => [name, rows]), [1])
          : h("p", { class: "muted" }, "A fresh install: there are no old tables."),
        plainTable("New tables", ["Table", "Rows now"], facts.after, [1])),
      merges.length
        ? plainTable("What each merge ended with", ["Merged", "Students", "Sessions", "Steps", "Notes"], merges, [1, 2, 3, 4]) : [],
      h("h3", {}, "Decisions"),
      facts.decisions.length
        ? plainTable(`Where the old tables left a choice, in ${many(facts.decided, "session", "sessions")}`, ["What was decided", "Sessions"],
          facts.decisions.map(([kind, detail, count]) => [detail === null ? kind.replaceAll("_", " ") : h("span", { class: "under" }, detail), count]), [1])
        : h("p", { class: "muted" }, "Nothing had to be decided."),
      h("h3", {}, "Verification"),
      h("div", { id: "verification", "aria-live": "polite" }, verification(m.verification)),
    ].flat());
  }

  // --- a student ----------------------------------------------------------------------------------

  function sessionPanel(session) {
    const step = (number) => {
      const done = session.done.includes(number);
      const begun = !done && isBegun(session, number);
      const of = session.steps.get(number);
      const set = facts.flags.filter(([, owner], place) => owner === number && session.flags[place] === "1");
      return h("li", { class: done ? "done" : begun ? "begun" : null },
        `${number} ${facts.steps[number - 1]}`,
        h("small", {}, [done ? "done" : begun ? "begun" : "not begun",
          of && of.spent ? duration(of.spent) : "",
          of && of.attempts ? many(of.attempts, "attempt", "attempts") : ""].filter(Boolean).join(", ")),
        set.length ? h("small", {}, set.map(([flag]) => flag.replaceAll("_", " ")).join(", ")) : null);
    };
    const yes = (value) => (value ? "yes" : "no");
    return h("div", { class: "panel" },
      h("div", { class: "head" },
        h("h3", { tabindex: -1 }, `Session …${session.token}`), rateBar(session.rate)),
      h("div", { class: "columns" },
        h("dl", { class: "facts" }, [
          ["State", [session.active ? "active" : "expired", session.demo ? "demonstration" : ""].filter(Boolean).join(", ")],
          ["At step", String(session.at)],
          ["Next step", stepName(session.next)],
          ["Time spent", spentText(session.spent)],
          ["Started", time(session.started)],
          ["Last activity", time(session.last)],
          ["Expires", time(session.expires)],
        ].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
        h("dl", { class: "facts" }, [
          ["Phone number", session.phone || "-"],
          ["Voice", session.voice || "-"],
          ["Provider", session.provider || "-"],
          ["Direction", session.direction || "-"],
          ["Use case", session.useCase || "-"],
          ["API key", yes(session.key)],
          ["Prompt", yes(session.prompt)],
          ["Tools", yes(session.tools)],
        ].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
      h("ol", { class: "steps", "aria-label": "Steps" }, facts.steps.map((_, place) => step(place + 1))));
  }
  function drawStudent(id) {
    const student = byId.get(id);
    const title = h("h2", { tabindex: -1, id: "student-title" }, student ? called(student) : "Unknown student");
    $("student").replaceChildren(
      h("p", {}, h("a", { href: "#sessions" }, "← All sessions")),
      h("div", { class: "panel" }, title, ...(student ? [
        h("dl", { class: "facts" }, [
          ["Address", student.email],
          ["GitHub", student.github || "-"],
          ["Sessions", n(student.sessions.length)],
          ["Best progress", `${student.rate} %`],
          ["Time spent", spentText(student.spent)],
          ["Last activity", time(student.last)],
        ].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      ] : [h("p", { class: "muted" }, "No student with this id is in the data.")])),
      ...(student ? student.sessions.map(sessionPanel) : []));
    return title;
  }

  // --- routes -------------------------------------------------------------------------------------

  // #student/<id> is a student, #student/<id>/<number> one of the sessions in the order of their
  // start; everything else is a section.
  let lastHash = location.hash;
  let left = null; // where somebody went to a student from: hash, scroll position, link
  function route() {
    if (!facts) return;
    const [, id, number] = location.hash.match(/^#student\/([^/]+)(?:\/(\d+))?$/) || [];
    if (id && !$("all").hidden) left = [lastHash, scrollY, document.activeElement];
    lastHash = location.hash;
    $("student").hidden = !id;
    $("all").hidden = Boolean(id);
    document.title = "Instructor dashboard";
    if (id) {
      const title = drawStudent(id);
      document.title = `${title.textContent} - Instructor dashboard`;
      const session = number && $("student").querySelectorAll("h3")[number - 1];
      scrollTo(0, 0);
      (session || title).focus();
    } else if (left && location.hash === left[0]) {
      left[2].focus({ preventScroll: true });
      scrollTo({ top: left[1], behavior: "instant" });
      left = null;
    } else if (location.hash.length > 1) {
      const section = $(location.hash.slice(1));
      if (section) section.scrollIntoView();
    }
  }
  addEventListener("hashchange", route);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // it must not lead away from a student
    $("main").focus();
  });
  addEventListener("beforeprint", () => [sessionTable, studentTable, stuckTable].forEach((table) => table.expand(true)));
  addEventListener("afterprint", () => [sessionTable, studentTable, stuckTable].forEach((table) => table.expand(false)));

  function draw(data) {
    take(data);
    $("about").textContent = `Database ${facts.database}, as of ${time(facts.made)} UTC`;
    $("next").replaceChildren(h("option", { value: "" }, "Any"),
      ...facts.steps.map((name, place) => h("option", { value: place + 1 }, `${place + 1} ${name}`)));
    drawTotals();
    drawFunnel();
    drawDays();
    drawStuck();
    drawMigration();
    filter();
    $("nav").hidden = false;
    say("");
    route();
    document.documentElement.dataset.drawn = "";
  }

  // --- live: log in, load -------------------------------------------------------------------------

  function loggedIn(yes) {
    $("login-open").hidden = yes;
    $("load").hidden = !yes;
    $("logout").hidden = !yes;
  }
  async function ask(path, options) {
    try {
      const answer = await fetch(path, { credentials: "same-origin", ...options });
      const said = await answer.json();
      if (answer.status === 401 && path !== "login") loggedIn(false);
      return answer.ok ? [said, null] : [null, said.error];
    } catch {
      return [null, "The server does not answer."];
    }
  }
  async function load() {
    $("load").disabled = true;
    say("Loading sessions ...");
    const [data, error] = await ask("data");
    $("load").disabled = false;
    if (error) say(error);
    else draw(data);
  }
  async function verify() {
    $("verify").disabled = true;
    $("verify").textContent = "Verifying ...";
    const [report, error] = await ask("verification");
    facts.migration.verification = report;
    $("verification").replaceChildren(...verification(error ? { problem: error } : report));
  }
  function live_() {
    $("login-open").addEventListener("click", () => {
      $("login-error").textContent = "";
      $("login").showModal();
    });
    $("login-cancel").addEventListener("click", () => $("login").close());
    $("login").addEventListener("close", () => { $("password").value = ""; });
    $("login-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const [, error] = await ask("login", { method: "POST", body: $("password").value });
      $("password").value = "";
      $("login-error").textContent = error || "";
      if (error) {
        $("password").focus();
      } else {
        $("login").close();
        loggedIn(true);
        say("Logged in. Load Sessions shows the dashboard.");
        $("load").focus();
      }
    });
    $("load").addEventListener("click", load);
    $("logout").addEventListener("click", async () => {
      await ask("logout", { method: "POST" });
      location.replace(location.pathname);
    });
    const yes = "loggedIn" in document.documentElement.dataset;
    loggedIn(yes);
    say(yes ? "Load Sessions shows the dashboard." : "Admin Login, then Load Sessions.");
  }

  if (live) live_();
  else draw(JSON.parse($("data").textContent));
})();
