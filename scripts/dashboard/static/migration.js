// The state of the migration.

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
      ? plainTable("Checks: expected by the legacy tables, found in the unified ones",
        ["Check", "Expected", "Found", "Holds"],
        report.checks.map((c) => [c.check_name, c.expected, c.actual, mark(c.ok)]), [1, 2])
      : h("p", { class: "muted" }, "A fresh install: there is no legacy table to compare with."),
    h("h3", {}, "Success criteria"),
    plainTable("As the migration guide lists them", ["Criterion", "Met"],
      Object.entries(report.criteria).map(([name, met]) => [name, mark(met)])),
  ];
}
function migrationFacts() {
  const m = facts.migration;
  const bridged = [
    ["Writes are applied", m.syncs_at_once ? "at once" : "with the next revision"],
    ["Logged, not applied yet", `${n(m.pending.legacy)} from the legacy tables, ${n(m.pending.unified)} from the unified ones`],
    ["Sessions on one side only", `${n(m.drift.not_in_unified || 0)} in the legacy tables, ${n(m.drift.not_in_legacy || 0)} in the unified ones`],
    ["Kept aside", `${many(m.kept, "value", "values")} that the legacy tables cannot hold`],
  ];
  return [
    ["Database", facts.database],
    ["Revision", m.revision === m.head ? `${m.revision} (the latest)` : m.revision],
    ["As of", time(facts.made)],
    ["Next", m.next],
    ...m.tables.map(([name, relation]) => [name, relation === name ? "in use" : `a view over ${relation}`]),
    ...(m.bridged ? bridged : []),
  ];
}
function drawMigration() {
  const m = facts.migration;
  const merges = facts.merges.map(([at, counts]) => [when(at), ...counts.map((count) => count ?? "-")]);
  const decisions = facts.decisions.map(([kind, detail, count]) =>
    [detail === null ? kind.replaceAll("_", " ") : h("span", { class: "under" }, detail), count]);
  $("migration-body").replaceChildren(...[
    m.problems.map((problem) => h("p", { class: "note bad" }, `A person is needed: ${problem}`)),
    factList(migrationFacts(), "stacked"),
    h("h3", {}, "Before and after"),
    h("div", { class: "columns" },
      m.before.length
        ? plainTable("Legacy tables", ["Table", "Rows now"], m.before, [1])
        : h("p", { class: "muted" }, "A fresh install: there are no legacy tables."),
      plainTable("Unified tables", ["Table", "Rows now"], facts.after, [1])),
    merges.length
      ? plainTable("Rows after each merge", ["Merged", "Students", "Sessions", "Steps", "Decisions"], merges, [1, 2, 3, 4]) : [],
    h("h3", {}, "Decisions"),
    decisions.length
      ? plainTable(`Where the legacy tables left a choice, in ${many(facts.decided, "session", "sessions")}`,
        ["Decision", "Sessions"], decisions, [1])
      : h("p", { class: "muted" }, "There was nothing to decide."),
    h("h3", {}, "Verification"),
    h("div", { id: "verification", "aria-live": "polite" }, verification(m.verification)),
  ].flat());
}
