// The list of sessions and students with its filter, and the stuck sessions.

function dots(session) {
  const states = facts.steps.map((_, place) => stepState(session, place + 1));
  const those = (state) => states.flatMap((one, place) => (one === state ? place + 1 : [])).join(", ");
  const label = `Steps done: ${those("done") || "none"}${those("begun") ? `; begun: ${those("begun")}` : ""}`;
  return h("span", { class: "dots", role: "img", "aria-label": label, title: label },
    states.map((state) => h("i", { class: state || null })));
}
function configuration(session) {
  const line = (...values) => values.filter(Boolean).join(", ");
  const voice = line(session.voice, session.provider);
  return [
    h("span", { class: "under" }, line(session.phone, session.direction) || "no phone number"),
    voice ? h("span", { class: "under" }, voice) : null,
    h("ul", { class: "chips", "aria-label": "Has" },
      ["key", "prompt", "tools"].map((field) => h("li", { class: session[field] ? "on" : null },
        h("span", { "aria-hidden": "true" }, session[field] ? "✓ " : "– "),
        h("span", { class: "unseen" }, session[field] ? "has " : "no "), field))),
  ];
}

const sessionTable = new PagedTable($("session-table"), "Sessions", [
  { title: "Student",
    cell: (s) => [...studentLink(s.student.id, s.student.name, s.student.email), h("small", {},
      h("a", { href: `#student/${s.student.id}/${s.number}` }, `session …${s.token}`), s.demo ? ", demonstration" : "")],
    sort: (s) => called(s.student), class: "who" },
  { title: "Progress", cell: (s) => [rateBar(s.rate), dots(s)], sort: (s) => s.rate, down: true },
  { title: "At step", cell: (s) => s.at, sort: (s) => s.at, number: true, down: true },
  { title: "Time spent", cell: (s) => duration(s.spent), sort: (s) => s.spent, number: true, down: true },
  { title: "Last activity", cell: (s) => [when(s.last), h("span", { class: "under" }, s.state)],
    sort: (s) => s.last, down: true },
  { title: "Configuration", cell: configuration },
  { title: "Use case", cell: (s) => h("span", { class: "clip" }, s.useCase || "-") },
], { order: 4 });
const studentTable = new PagedTable($("student-table"), "Students", [
  { title: "Student", cell: (s) => studentLink(s.id, s.name, s.email), sort: called, class: "who" },
  { title: "Sessions", cell: (s) => s.sessions.length, sort: (s) => s.sessions.length, number: true, down: true },
  { title: "Best progress", cell: (s) => rateBar(s.rate), sort: (s) => s.rate, down: true },
  { title: "Time spent", cell: (s) => duration(s.spent), sort: (s) => s.spent, number: true, down: true },
  { title: "Last activity", cell: (s) => when(s.last), sort: (s) => s.last, down: true },
  { title: "GitHub", cell: (s) => s.github || "-" },
], { order: 0 });

const STATES = {
  all: () => true,
  active: (s) => s.state === "active",
  unfinished: (s) => s.rate < 100,
  finished: (s) => s.rate === 100,
  untouched: (s) => s.rate === 0,
  demo: (s) => s.demo,
};
// The search covers only the student: name, address, GitHub account.
function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const named = (student) => words.every((word) => student.text.includes(word));
  const [state, next] = [$("state").value, Number($("next").value)];
  if (state === "idle") $("filter").elements.list.value = "students";
  const listed = $("filter").elements.list.value;
  $("session-table").hidden = listed !== "sessions";
  $("student-table").hidden = listed !== "students";
  const fits = (s) => STATES[state](s) && (!next || s.next === next);
  const all = state === "all" && !next; // students without a session too
  if (listed === "sessions") {
    const found = sessions.filter((s) => fits(s) && named(s.student));
    sessionTable.show(found);
    $("count").textContent = `${n(found.length)} of ${many(sessions.length, "session", "sessions")}`;
  } else {
    const found = students.filter((student) => named(student)
      && (state === "idle" ? !student.sessions.length : all || student.sessions.some(fits)));
    studentTable.show(found);
    $("count").textContent = `${n(found.length)} of ${many(students.length, "student", "students")}`;
  }
}
function showIdle() {
  $("filter").reset();
  $("state").value = "idle";
  filter();
  $("sessions").scrollIntoView();
  $("state").focus({ preventScroll: true });
}
$("filter").addEventListener("input", (event) => {
  // a list of sessions drops the filter for students without a session
  if (event.target.value === "sessions" && $("state").value === "idle") $("state").value = "all";
  filter();
});
$("filter").addEventListener("reset", () => setTimeout(filter));
$("filter").addEventListener("submit", (event) => event.preventDefault());

// --- stuck ----------------------------------------------------------------------------------------

const stuckTable = new PagedTable($("stuck-table"), "Stuck sessions", [
  { title: "Student",
    cell: (s) => [...studentLink(s.row_id, s.student_name, s.student_email),
      h("small", {}, `session …${s.token_end}${s.demo_mode ? ", demonstration" : ""}`)],
    sort: (s) => s.student_name || s.student_email, class: "who" },
  { title: "Next step", cell: (s) => `${s.next_step} ${s.next_step_name}`, sort: (s) => s.next_step },
  { title: "Attempts", cell: (s) => s.attempts, sort: (s) => s.attempts, number: true, down: true },
  { title: "Time in it", cell: (s) => duration(s.time_spent), sort: (s) => s.time_spent, number: true, down: true },
  { title: "Quiet for", cell: (s) => (s.quiet_days === null ? "unknown" : many(s.quiet_days, "day", "days")),
    sort: (s) => s.quiet_days, number: true },
  { title: "Progress", cell: (s) => rateBar(s.completion_rate), sort: (s) => s.completion_rate, down: true },
  { title: "State", cell: (s) => s.state, sort: (s) => s.state },
], { page: 10 });

function drawStuck() {
  const { count, active, rows } = facts.stuck;
  const listed = rows.length < count ? ` The ${n(rows.length)} that were active last are listed.` : "";
  $("stuck-note").textContent = count
    ? `${many(count, "unfinished session has", "unfinished sessions have")} been quiet for a day or more, `
      + `${n(active)} of them still active.${listed}`
    : "No unfinished session has been quiet for a day or more.";
  $("stuck-table").hidden = !count;
  stuckTable.show(rows);
}
