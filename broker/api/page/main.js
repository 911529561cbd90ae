// Signs in and out, fetches what is shown, and shows it: at once when the broker says that something changed, and else
// every few seconds while the page is visible.

import { ask, now, Refused, settle } from "./api.js";
import { act, logIn } from "./actions.js";
import { $, setText } from "./dom.js";
import { filters, GrantList } from "./list.js";
import { Providers } from "./providers.js";
import { callerWords, may } from "./rights.js";
import { Stream } from "./stream.js";
import { until, zone } from "./time.js";
import { Verdict } from "./verdict.js";

const POLL = 5000, POLL_WITH_STREAM = 15000, GAP = 3000;
let session = null, timer, polling = null, again = false, polledAt = 0, data = {};
const list = new GrantList(poll), cards = new Providers(poll, show), verdict = new Verdict((id) => find(id), poll);
const stream = new Stream(pollSoon, () => { showLive(); poll(); });

/** Fetch all and show it. While that is under way, a further call waits for the next time. */
function poll() {
  clearTimeout(timer);
  if (!session || document.visibilityState === "hidden") return Promise.resolve();
  if (polling) { again = true; return polling; }
  polling = fetchAll().finally(() => {
    polling = null;
    if (!session) return;
    if (again) { again = false; poll(); } else timer = setTimeout(poll, stream.live ? POLL_WITH_STREAM : POLL);
  });
  return polling;
}

/** Something changed. However often that is, it is fetched every few seconds at most. */
function pollSoon() {
  const wait = polledAt + GAP - Date.now();
  if (wait <= 0) { poll(); return; }
  clearTimeout(timer);
  timer = setTimeout(poll, wait);
}

async function fetchAll() {
  const asked = session;
  polledAt = Date.now();
  const [said, listed, failed] = await Promise.all([
    settle(ask("GET", `v1/verdict?${zone()}`)), settle(ask("GET", "v1/providers")), list.fetch(),
  ]);
  if (session !== asked) return;
  const refused = [said, listed, failed].filter((each) => each instanceof Refused);
  const out = refused.find((error) => error.status === 401 || error.status === 403);
  if (out) { signedOut(out.message); return; }
  if (refused.length && refused.every((error) => error.status === 0)) data.unansweredSince ||= data.fetchedAt || now();
  else {
    data.unansweredSince = null;
    data.fetchedAt = now();
    data.verdict = said instanceof Refused && said.status === 404 ? { missing: true } : said;
    if (!(listed instanceof Refused)) data.providers = listed.providers;
  }
  data.trouble = failed instanceof Refused ? failed.message : null;
  show();
}

function show() {
  if (!session) return;
  data.adminOfAll = session.admin_of_all;
  verdict.show(data, session.admin_of_all);
  $("providers").parentElement.hidden = !data.providers;
  showLive();
  if (data.providers) {
    cards.show(data.providers, data.verdict, session.admin_of_all);
    for (const select of [$("provider"), $("begin-provider")]) offer(select, data.providers);
    showCounts();
  }
  if (data.fetchedAt) list.show(data, data.unansweredSince && list.grants.length ? null : data.trouble);
}

/** Say how soon changes are seen, unless they cannot be read. */
function showLive() {
  $("status").dataset.live = stream.live ? "stream" : "poll";
  setText($("live"), data.trouble ? "" : stream.live ? "Shows changes at once." : "Asks every 5 s.");
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

const WORDS = { "": "all", parked: "parked", leased: "refreshing", due: "scheduled" };

function showCounts() {
  const wanted = $("provider").value;
  for (const radio of document.querySelectorAll("input[name=state]")) {
    const among = data.providers.filter((provider) => !wanted || provider.provider === wanted);
    const count = among.reduce((sum, { grants }) => sum + (radio.value ? grants[radio.value] : grants.due + grants.leased + grants.parked), 0);
    // The counts cover all grants, also those that the list of an admin of some grants leaves out.
    setText(radio.nextElementSibling, session.admin_of_all ? `${WORDS[radio.value]} ${count.toLocaleString()}` : WORDS[radio.value]);
    radio.nextElementSibling.dataset.some = radio.value === "parked" && count > 0 && session.admin_of_all ? "yes" : "no";
  }
}

function find(search) {
  $("filters").reset();
  $("search").value = search;
  filtered();
  $("grants").focus();
}

function filtered() {
  list.first();
  history.replaceState(null, "", `#${new URLSearchParams(filters())}`);
  poll();
}

function signedIn(who) {
  session = who;
  data = {};
  $("sign-in").hidden = true;
  $("status").hidden = $("who").hidden = false;
  setText($("caller"), callerWords(who));
  $("new-login").hidden = !may(who, "login");
  $("caller").title = `signed in as ${who.caller}`;
  poll();
  stream.open();
}

function signedOut(text = "") {
  session = null;
  clearTimeout(timer);
  stream.close();
  list.clear();
  cards.clear();
  verdict.clear();
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
  const who = await settle(ask("POST", "session", { body: { key } }));
  if (who instanceof Refused) {
    setText($("key-wrong"), who.status === 401 ? "token-broker does not know this key." : who.message);
    $("key").focus();
    return;
  }
  signedIn(who);
  setText($("key-wrong"), "");
  $("words").focus();
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

$("new-login").addEventListener("click", () => $("begin").showModal());
$("begin-cancel").addEventListener("click", () => $("begin").close());
$("begin-form").addEventListener("submit", () => act($("new-login"), () => {}, async () => {
  await logIn($("begin-id").value, $("begin-provider").value, poll);
  return "";
}));

document.addEventListener("visibilitychange", () => {
  if (!session) return;
  if (document.visibilityState === "hidden") stream.close();
  else { poll(); stream.open(); }
});
setInterval(() => {
  if (!session || document.visibilityState === "hidden") return;
  for (const part of [list, cards, verdict]) part.tickTime();
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
