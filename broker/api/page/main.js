// Polls the broker every few seconds while the page is visible, and shows the data.

import { ask, now, Refused } from "./api.js";
import { act, logIn, retryProvider } from "./actions.js";
import { $, arrange, el, notify, setText } from "./dom.js";
import { GrantLine } from "./grant.js";
import { ProviderCard } from "./providers.js";
import { until } from "./time.js";
import { verdict } from "./verdict.js";

const INTERVAL = 5000, PAGE = 100, SHOWN = 3, MAX_REQUESTS = 30;
const lines = new Map(), cards = new Map();
let session = null, timer, polling = false, again = false, cursors = [null];
let data = fresh();

function fresh() {
  return { providers: null, health: null, parked: [], grants: [], next: null, unansweredSince: null, trouble: null, fetchedAt: 0 };
}

const filters = () => Object.fromEntries(new FormData($("filters")));

/** Fetch a page of grants from *cursor*. A search skips many grants, so one response may not fill the page. */
async function page(query, cursor, wanted) {
  const grants = [];
  for (let sent = 0; sent < MAX_REQUESTS; sent += 1) {
    const parameters = new URLSearchParams({ ...query, limit: wanted - grants.length });
    if (cursor) parameters.set("cursor", cursor);
    const body = await ask("GET", `v1/grants?${parameters}`);
    grants.push(...body.grants);
    cursor = body.next;
    if (!cursor || grants.length >= wanted) break;
  }
  return { grants, next: cursor };
}

const nonEmpty = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value));

async function poll() {
  clearTimeout(timer);
  if (!session || document.visibilityState === "hidden") return;
  if (polling) { again = true; return; }
  polling = true;
  const wanted = JSON.stringify([filters(), cursors.at(-1)]);
  try {
    const [health, { providers }, listed, parked] = await Promise.all([
      ask("GET", "healthz"), ask("GET", "v1/providers"), page(nonEmpty(filters()), cursors.at(-1), PAGE), page({ state: "parked" }, null, 20),
    ]);
    data = { ...data, health, providers, parked: parked.grants, unansweredSince: null, trouble: null, fetchedAt: now(), adminOfAll: session?.admin_of_all };
    // If the filters changed meanwhile, another request fetches their page.
    if (wanted === JSON.stringify([filters(), cursors.at(-1)])) data = { ...data, grants: listed.grants, next: listed.next };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401 || error.status === 403) { signedOut(error.message); return; }
    if (error.status === 400 && cursors.length > 1) { cursors = [null]; again = true; }
    else if (error.status === 0) data.unansweredSince ||= data.fetchedAt || now();
    else { data.trouble = error.message; notify(error.message, true); await fetchHealth(); }
  } finally {
    polling = false;
  }
  if (!session) return;
  show();
  if (again) { again = false; poll(); } else timer = setTimeout(poll, INTERVAL);
}

/** Fetch the health alone where the lists fail: it says why. */
async function fetchHealth() {
  try {
    data.health = await ask("GET", "healthz");
    data.providers ??= [];
  } catch { data.unansweredSince ||= data.fetchedAt || now(); }
}

function show() {
  showVerdict();
  if (!data.providers) return;
  arrange($("providers"), data.providers.map((provider) => {
    if (!cards.has(provider.provider)) cards.set(provider.provider, new ProviderCard(provider, poll));
    const card = cards.get(provider.provider);
    card.show(provider, session.admin_of_all);
    return card.node;
  }));
  for (const select of [$("provider"), $("begin-provider")]) offer(select, data.providers);
  showCounts();
  const ids = new Set(data.grants.map((grant) => grant.grant_id));
  for (const id of lines.keys()) if (!ids.has(id)) lines.delete(id);
  arrange($("list"), data.grants.map((grant) => {
    const line = lines.get(grant.grant_id);
    if (line) line.show(grant);
    else lines.set(grant.grant_id, new GrantLine(grant, poll));
    return lines.get(grant.grant_id).node;
  }));
  showPager();
}

function offer(select, providers) {
  const names = providers.map((provider) => provider.provider);
  const had = [...select.options].map((option) => option.value).filter(Boolean);
  if (names.join("\n") === had.join("\n")) return;
  const chosen = select.value || new URLSearchParams(location.hash.slice(1)).get("provider") || "";
  for (const option of [...select.options]) if (option.value) option.remove();
  select.append(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

function showCounts() {
  const wanted = $("provider").value;
  for (const radio of document.querySelectorAll("input[name=state]")) {
    const among = data.providers.filter((provider) => !wanted || provider.provider === wanted);
    const count = among.reduce((sum, { grants }) => sum + (radio.value ? grants[radio.value] : grants.due + grants.leased + grants.parked), 0);
    // The counts cover all grants: an admin of some grants has no right to know them.
    setText(radio.nextElementSibling, session.admin_of_all ? `${radio.value || "all"} ${count.toLocaleString()}` : radio.value || "all");
    radio.nextElementSibling.dataset.some = radio.value === "parked" && count > 0 && session.admin_of_all ? "yes" : "no";
  }
}

/** Return why the lists failed: nearly always Redis, which they are read from. */
const whyNoGrants = () => ((data.health?.checks?.redis?.status ?? "ok") === "ok" ? data.trouble : "Redis does not answer");

function showPager() {
  const { state, provider, search } = filters();
  const filtered = state || provider || search;
  $("none").hidden = data.grants.length > 0;
  setText($("none"), data.trouble ? `The grants cannot be shown: ${whyNoGrants()}.`
    : filtered ? "No grant matches."
    : "No grants yet. Log in the first one, or import refresh tokens that you have: token-broker import FILE.");
  document.querySelector(".pager").hidden = cursors.length === 1 && !data.next;
  $("previous").disabled = cursors.length === 1;
  $("next").disabled = !data.next;
  setText($("page-of"), `page ${cursors.length}`);
}

function showVerdict() {
  const top = verdict(data, now());
  $("verdict").dataset.level = top.level;
  setText($("words"), top.text);
  setText($("aside"), top.aside);
  document.title = `${{ good: "✓", warn: "!", bad: "✗", wait: "…" }[top.level]} token-broker`;
  const single = top.findings.length === 1;
  const shown = top.findings.map((finding) => el("li", { dataset: { level: finding.level } },
    single ? null : el("span", {}, finding.text), ...pointers(finding)));
  const seen = JSON.stringify(top.findings.map(({ text, grants, provider }) => [text, grants, provider?.provider]));
  if (seen !== $("findings").dataset.seen) $("findings").replaceChildren(...shown);
  $("findings").dataset.seen = seen;
}

/** Make the buttons of a finding: its grants, or a retry of its provider. */
function pointers({ grants = [], provider }) {
  const to = grants.slice(0, SHOWN).map((id) => el("button", { class: "pointer mono", onclick: () => find({ search: id }) }, id));
  if (grants.length > SHOWN) to.push(el("button", { class: "pointer", onclick: () => find({ state: "parked" }) }, "all of them"));
  if (provider?.kind && session.admin_of_all) {
    to.push(el("button", { class: "pointer", onclick: (event) => act(event.currentTarget, poll, () => retryProvider(provider)) }, "Try again now"));
  }
  return to;
}

function find({ state = "", search = "" }) {
  $("filters").reset();
  $("search").value = search;
  document.querySelector(`input[name=state][value="${state}"]`).checked = true;
  filtered();
  $("grants").focus();
}

function filtered() {
  cursors = [null];
  history.replaceState(null, "", `#${new URLSearchParams(nonEmpty(filters()))}`);
  poll();
}

function turn(to) {
  cursors = to;
  poll().then(() => $("grants").scrollIntoView());
}

function signedIn(who) {
  session = who;
  data = fresh();
  $("sign-in").hidden = true;
  $("status").hidden = $("who").hidden = false;
  setText($("caller"), who.caller);
  $("caller").title = `signed in as ${who.caller}`;
  poll();
}

function signedOut(text = "") {
  session = null;
  clearTimeout(timer);
  lines.clear();
  cards.clear();
  for (const list of [$("list"), $("providers"), $("findings")]) list.replaceChildren();
  delete $("findings").dataset.seen;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  $("status").hidden = $("who").hidden = true;
  $("sign-in").hidden = false;
  setText($("key-wrong"), text);
  document.title = "token-broker";
  $("key").focus();
}

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("key").value;
  $("key").value = "";
  try {
    signedIn(await ask("POST", "session", { body: { key } }));
    setText($("key-wrong"), "");
    $("words").focus();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    setText($("key-wrong"), error.status === 401 ? "token-broker does not know this key." : error.message);
    $("key").focus();
  }
});

$("sign-out").addEventListener("click", () => act($("sign-out"), () => {}, async () => {
  await ask("POST", "session/end");
  signedOut();
  return "Signed out.";
}));

let typing;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filtered, 200); });
$("filters").addEventListener("change", (event) => { if (event.target !== $("search")) filtered(); });
$("filters").addEventListener("submit", (event) => { event.preventDefault(); filtered(); });
$("next").addEventListener("click", () => turn([...cursors, data.next]));
$("previous").addEventListener("click", () => turn(cursors.slice(0, -1)));

$("new-login").addEventListener("click", () => $("begin").showModal());
$("begin-cancel").addEventListener("click", () => $("begin").close());
$("begin-form").addEventListener("submit", () => act($("new-login"), () => {}, async () => {
  await logIn($("begin-id").value, $("begin-provider").value, poll);
  return "";
}));

document.addEventListener("visibilitychange", poll);
setInterval(() => {
  if (!session || document.visibilityState === "hidden") return;
  for (const line of lines.values()) line.tickTime();
  for (const card of cards.values()) card.tickTime();
  if (session.ends_at - now() < 600) $("caller").title = `signed out ${until(session.ends_at)}`;
}, 1000);

function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  $("search").value = wanted.get("search") ?? "";
  const radio = [...document.querySelectorAll("input[name=state]")].find((each) => each.value === (wanted.get("state") ?? ""));
  if (radio) radio.checked = true;
  const provider = wanted.get("provider");
  if (provider) { $("provider").append(new Option(provider, provider)); $("provider").value = provider; }
}

fromAddress();
ask("GET", "session").then((body) => (body.caller ? signedIn(body) : signedOut()), (error) => signedOut(error.message));
