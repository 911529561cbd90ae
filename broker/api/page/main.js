// Asks the broker every few seconds while somebody looks, and shows what it says.

import { ask, now, Refused } from "./api.js";
import { acting, logIn, retryProvider } from "./actions.js";
import { $, arrange, el, say, setText } from "./dom.js";
import { GrantLine } from "./grant.js";
import { ProviderCard } from "./providers.js";
import { until } from "./time.js";
import { verdict } from "./verdict.js";

const EVERY = 5000, PAGE = 100, SHOWN = 3, MOST_REQUESTS = 30;
const lines = new Map(), cards = new Map();
let session = null, timer, asking = false, again = false, cursors = [null];
let heard = fresh();

function fresh() {
  return { providers: null, health: null, parked: [], grants: [], next: null, silentSince: null, trouble: null, heardAt: 0 };
}

const filters = () => Object.fromEntries(new FormData($("filters")));

/** A page of grants from *cursor*: a search passes over many, and one answer may end before the page is full. */
async function page(query, cursor, wanted) {
  const grants = [];
  for (let asked = 0; asked < MOST_REQUESTS; asked += 1) {
    const parameters = new URLSearchParams({ ...query, limit: wanted - grants.length });
    if (cursor) parameters.set("cursor", cursor);
    const told = await ask("GET", `v1/grants?${parameters}`);
    grants.push(...told.grants);
    cursor = told.next;
    if (!cursor || grants.length >= wanted) break;
  }
  return { grants, next: cursor };
}

const given = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value));

async function look() {
  clearTimeout(timer);
  if (!session || document.visibilityState === "hidden") return;
  if (asking) { again = true; return; }
  asking = true;
  const wanted = JSON.stringify([filters(), cursors.at(-1)]);
  try {
    const [health, { providers }, listed, parked] = await Promise.all([
      ask("GET", "healthz"), ask("GET", "v1/providers"), page(given(filters()), cursors.at(-1), PAGE), page({ state: "parked" }, null, 20),
    ]);
    heard = { ...heard, health, providers, parked: parked.grants, silentSince: null, trouble: null, heardAt: now(), adminOfAll: session?.admin_of_all };
    // Another filter chosen meanwhile wants another page: that one is on its way.
    if (wanted === JSON.stringify([filters(), cursors.at(-1)])) heard = { ...heard, grants: listed.grants, next: listed.next };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401 || error.status === 403) { signedOut(error.message); return; }
    if (error.status === 400 && cursors.length > 1) { cursors = [null]; again = true; }
    else if (error.status === 0) heard.silentSince ||= heard.heardAt || now();
    else { heard.trouble = error.message; say(error.message, true); await lookAtHealth(); }
  } finally {
    asking = false;
  }
  if (!session) return;
  show();
  if (again) { again = false; look(); } else timer = setTimeout(look, EVERY);
}

/** The lists cannot be had: what the broker says of itself tells why. */
async function lookAtHealth() {
  try {
    heard.health = await ask("GET", "healthz");
    heard.providers ??= [];
  } catch { heard.silentSince ||= heard.heardAt || now(); }
}

function show() {
  showVerdict();
  if (!heard.providers) return;
  arrange($("providers"), heard.providers.map((provider) => {
    if (!cards.has(provider.provider)) cards.set(provider.provider, new ProviderCard(provider, look));
    const card = cards.get(provider.provider);
    card.show(provider, session.admin_of_all);
    return card.node;
  }));
  for (const select of [$("provider"), $("begin-provider")]) offer(select, heard.providers);
  showCounts();
  const ids = new Set(heard.grants.map((grant) => grant.grant_id));
  for (const id of lines.keys()) if (!ids.has(id)) lines.delete(id);
  arrange($("list"), heard.grants.map((grant) => {
    const line = lines.get(grant.grant_id);
    if (line) line.show(grant);
    else lines.set(grant.grant_id, new GrantLine(grant, look));
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
    const among = heard.providers.filter((provider) => !wanted || provider.provider === wanted);
    const count = among.reduce((sum, { grants }) => sum + (radio.value ? grants[radio.value] : grants.due + grants.leased + grants.parked), 0);
    // The counts are everybody's: to an admin of some grants they would say what is none of theirs to know.
    setText(radio.nextElementSibling, session.admin_of_all ? `${radio.value || "all"} ${count.toLocaleString()}` : radio.value || "all");
    radio.nextElementSibling.dataset.some = radio.value === "parked" && count > 0 && session.admin_of_all ? "yes" : "no";
  }
}

function showPager() {
  const { state, provider, search } = filters();
  const filtered = state || provider || search;
  $("none").hidden = heard.grants.length > 0;
  setText($("none"), filtered ? "No grant is like that." : "No grants yet. Log in the first one, or import refresh tokens that you have: token-broker import FILE.");
  document.querySelector(".pager").hidden = cursors.length === 1 && !heard.next;
  $("previous").disabled = cursors.length === 1;
  $("next").disabled = !heard.next;
  setText($("page-of"), `page ${cursors.length}`);
}

function showVerdict() {
  const told = verdict(heard, now());
  $("verdict").dataset.level = told.level;
  setText($("words"), told.words);
  setText($("aside"), told.aside);
  document.title = `${{ good: "✓", warn: "!", bad: "✗", wait: "…" }[told.level]} token-broker`;
  const single = told.findings.length === 1;
  const shown = told.findings.map((finding) => el("li", { dataset: { level: finding.level } },
    single ? null : el("span", {}, finding.words), ...pointers(finding)));
  const seen = JSON.stringify(told.findings.map(({ words, grants, provider }) => [words, grants, provider?.provider]));
  if (seen !== $("findings").dataset.seen) $("findings").replaceChildren(...shown);
  $("findings").dataset.seen = seen;
}

/** Where a finding leads: to its grants, or to one more try. */
function pointers({ grants = [], provider }) {
  const to = grants.slice(0, SHOWN).map((id) => el("button", { class: "pointer mono", onclick: () => find({ search: id }) }, id));
  if (grants.length > SHOWN) to.push(el("button", { class: "pointer", onclick: () => find({ state: "parked" }) }, "all of them"));
  if (provider?.kind && session.admin_of_all) {
    to.push(el("button", { class: "pointer", onclick: (event) => acting(event.currentTarget, look, () => retryProvider(provider)) }, "Try again now"));
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
  history.replaceState(null, "", `#${new URLSearchParams(given(filters()))}`);
  look();
}

function turn(to) {
  cursors = to;
  look().then(() => $("grants").scrollIntoView());
}

function signedIn(told) {
  session = told;
  heard = fresh();
  $("sign-in").hidden = true;
  $("status").hidden = $("who").hidden = false;
  setText($("caller"), told.caller);
  $("caller").title = `signed in as ${told.caller}`;
  look();
}

function signedOut(words = "") {
  session = null;
  clearTimeout(timer);
  lines.clear();
  cards.clear();
  for (const list of [$("list"), $("providers"), $("findings")]) list.replaceChildren();
  delete $("findings").dataset.seen;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  $("status").hidden = $("who").hidden = true;
  $("sign-in").hidden = false;
  setText($("key-wrong"), words);
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
    setText($("key-wrong"), error.status === 401 ? "This key is not known here." : error.message);
    $("key").focus();
  }
});

$("sign-out").addEventListener("click", () => acting($("sign-out"), () => {}, async () => {
  await ask("POST", "session/end");
  signedOut();
  return "Signed out.";
}));

let typing;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filtered, 200); });
$("filters").addEventListener("change", (event) => { if (event.target !== $("search")) filtered(); });
$("filters").addEventListener("submit", (event) => { event.preventDefault(); filtered(); });
$("next").addEventListener("click", () => turn([...cursors, heard.next]));
$("previous").addEventListener("click", () => turn(cursors.slice(0, -1)));

$("new-login").addEventListener("click", () => $("begin").showModal());
$("begin-cancel").addEventListener("click", () => $("begin").close());
$("begin-form").addEventListener("submit", () => acting($("new-login"), () => {}, async () => {
  await logIn($("begin-id").value, $("begin-provider").value, look);
  return "";
}));

document.addEventListener("visibilitychange", look);
setInterval(() => {
  if (!session || document.visibilityState === "hidden") return;
  for (const line of lines.values()) line.pass();
  for (const card of cards.values()) card.pass();
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
ask("GET", "session").then((told) => (told.caller ? signedIn(told) : signedOut()), (error) => signedOut(error.message));
