"use strict";
// Elements, numbers, times, and the data. Texts of students become text nodes only: h() creates elements, and no script
// parses HTML. The files of this folder are one script, in the order of page.py.

const $ = (id) => document.getElementById(id);

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

// A list of labels and values.
const factList = (facts, kind = "") => h("dl", { class: `facts ${kind}` },
  facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

const numbers = new Intl.NumberFormat("en");
const n = (value) => numbers.format(value);
const many = (count, one, more) => `${n(count)} ${count === 1 ? one : more}`;
const percent = (part, whole) => (whole ? Math.round((100 * part) / whole) : 0);

// Seconds since 1970 in UTC; JavaScript cannot format every year that PostgreSQL knows.
function time(seconds) {
  if (seconds === null) return "unknown";
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "out of range" : date.toISOString().slice(0, 16).replace("T", " ");
}
const when = (seconds) => h("span", { class: "nowrap" }, time(seconds));
// 0 seconds: the time is unknown.
function duration(seconds) {
  if (!seconds) return "-";
  const minutes = Math.round(seconds / 60);
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  return `${n(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

// --- the data -------------------------------------------------------------------------------------

// In the order of queries.py.
const SESSION = ["token", "rate", "at", "spent", "done", "flags", "steps", "started", "last", "expires",
  "state", "demo", "key", "prompt", "tools", "phone", "voice", "provider", "direction", "useCase"];

let facts = null;
let students = [];
let sessions = [];

function take(data) {
  facts = data.facts;
  students = data.students.map(([id, email, name, github, rows]) => {
    const student = { id, email, name, github };
    student.text = [email, name, github].join("\n").toLowerCase();
    student.sessions = rows.map((row, place) => sessionOf(student, row, place + 1));
    student.rate = Math.max(0, ...student.sessions.map((session) => session.rate));
    student.spent = student.sessions.reduce((sum, session) => sum + session.spent, 0);
    const times = student.sessions.map((session) => session.last).filter((last) => last !== null);
    student.last = times.length ? Math.max(...times) : null;
    return student;
  });
  sessions = students.flatMap((student) => student.sessions);
}
function sessionOf(student, row, number) {
  const session = { student, number };
  SESSION.forEach((field, place) => { session[field] = row[place]; });
  session.steps = new Map(session.steps.map(([step, spent, attempts]) => [step, { spent, attempts }]));
  session.next = 1;
  while (session.done.includes(session.next)) session.next += 1;
  return session;
}

const called = (student) => student.name || student.email;
const stepName = (step) => (step > 9 ? "finished" : `${step} ${facts.steps[step - 1]}`);
const flagsOf = (session, step) => facts.flags
  .filter(([, of], place) => of === step && session.flags[place] === "1").map(([flag]) => flag);
function stepState(session, step) {
  if (session.done.includes(step)) return "done";
  return session.steps.has(step) || flagsOf(session, step).length ? "begun" : "";
}

function studentLink(id, name, email) {
  return [
    h("a", { href: `#student/${id}` }, name || email),
    name && name !== email ? h("small", {}, email) : null,
  ];
}
function rateBar(rate) {
  return h("span", { class: "rate" },
    h("progress", { max: 100, value: rate, "aria-label": "Progress" }), `${rate} %`);
}
