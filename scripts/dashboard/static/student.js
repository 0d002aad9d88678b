// One student with all sessions.

function stepItem(session, step) {
  const state = stepState(session, step);
  const of = session.steps.get(step);
  const flags = flagsOf(session, step).map((flag) => flag.replaceAll("_", " "));
  return h("li", { class: state || null }, stepName(step),
    h("small", {}, [state || "not begun",
      of && of.spent ? duration(of.spent) : "",
      of && of.attempts ? many(of.attempts, "attempt", "attempts") : ""].filter(Boolean).join(", ")),
    flags.length ? h("small", {}, flags.join(", ")) : null);
}
function sessionPanel(session) {
  const yes = (value) => (value ? "yes" : "no");
  return h("div", { class: "panel" },
    h("div", { class: "head" }, h("h3", { tabindex: -1 }, `Session …${session.token}`), rateBar(session.rate)),
    h("div", { class: "columns" },
      factList([
        ["State", session.demo ? `${session.state}, demonstration` : session.state],
        ["At step", String(session.at)],
        ["Next step", stepName(session.next)],
        ["Time spent", duration(session.spent)],
        ["Started", time(session.started)],
        ["Last activity", time(session.last)],
        ["Expires", time(session.expires)],
      ]),
      factList([
        ["Phone number", session.phone || "-"],
        ["Voice", session.voice || "-"],
        ["Provider", session.provider || "-"],
        ["Direction", session.direction || "-"],
        ["Use case", session.useCase || "-"],
        ["API key", yes(session.key)],
        ["Prompt", yes(session.prompt)],
        ["Tools", yes(session.tools)],
      ])),
    h("ol", { class: "steps", "aria-label": "Steps" }, facts.steps.map((_, place) => stepItem(session, place + 1))));
}
function drawStudent(id) {
  const student = students.find((one) => one.id === id);
  const title = h("h2", { tabindex: -1, id: "student-title" }, student ? called(student) : "Unknown student");
  $("student").replaceChildren(
    h("p", {}, h("a", { href: "#sessions" }, "← All sessions")),
    h("div", { class: "panel" }, title, student
      ? factList([
        ["Address", student.email],
        ["GitHub", student.github || "-"],
        ["Sessions", n(student.sessions.length)],
        ["Best progress", `${student.rate} %`],
        ["Time spent", duration(student.spent)],
        ["Last activity", time(student.last)],
      ])
      : h("p", { class: "muted" }, "No student with this id is in the data.")),
    ...(student ? student.sessions.map(sessionPanel) : []));
  return title;
}
