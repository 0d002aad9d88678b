// Shows one section; if the page is served, login and loading.

const live = document.documentElement.dataset.mode === "live";

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

// #student/<id> is a student, #student/<id>/<number> a session in the order of their start; any other hash is a
// section.
let lastHash = location.hash;
let left = null; // the section before a student: hash, scroll position, focus
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
    scrollTo(0, 0);
    ((number && $("student").querySelectorAll("h3")[number - 1]) || title).focus();
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
  event.preventDefault(); // a student stays shown
  $("main").focus();
});

function draw(data) {
  take(data);
  $("about").textContent = `Database ${facts.database}, as of ${time(facts.made)} UTC`;
  $("next").replaceChildren(h("option", { value: "" }, "Any"),
    ...facts.steps.map((_, place) => h("option", { value: place + 1 }, stepName(place + 1))));
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

// --- live -----------------------------------------------------------------------------------------

function loggedIn(yes) {
  $("login-open").hidden = yes;
  $("load").hidden = !yes;
  $("logout").hidden = !yes;
  say(yes ? "Load Sessions shows the dashboard." : "Admin Login, then Load Sessions.");
}
// Returns the server's answer or an error: [answer, error].
async function ask(path, options) {
  try {
    const answer = await fetch(path, options);
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
async function logIn(event) {
  event.preventDefault();
  const [, error] = await ask("login", { method: "POST", body: $("password").value });
  $("password").value = "";
  $("login-error").textContent = error || "";
  if (error) {
    $("password").focus();
  } else {
    $("login").close();
    loggedIn(true);
    $("load").focus();
  }
}
async function logOut() {
  await ask("logout", { method: "POST" });
  location.replace(location.pathname);
}

if (live) {
  $("login-open").addEventListener("click", () => {
    $("login-error").textContent = "";
    $("login").showModal();
  });
  $("login-cancel").addEventListener("click", () => $("login").close());
  $("login").addEventListener("close", () => { $("password").value = ""; });
  $("login-form").addEventListener("submit", logIn);
  $("load").addEventListener("click", load);
  $("logout").addEventListener("click", logOut);
  loggedIn("loggedIn" in document.documentElement.dataset);
} else {
  draw(JSON.parse($("data").textContent));
}
