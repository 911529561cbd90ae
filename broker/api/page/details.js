// The details of one grant: why it is as it is, whose it is, what a person can do, and all facts.

import { act, logOut, refreshNow, tryAgain } from "./actions.js";
import { ask, grantPath, Refused, settle } from "./api.js";
import { coded, el } from "./dom.js";
import { may, refusedWords } from "./rights.js";
import { moment, zone } from "./time.js";
import { accountWords, DEAD } from "./words.js";

const WIDE = 60;
const pairs = (name, facts) => el("dl", { class: name }, ...facts.map(([term, value]) => el("div", value.length > WIDE ? { class: "wide" } : {}, el("dt", {}, term), el("dd", {}, value))));

export class Details {
  /** *changed* fetches the list again, *logIn* starts a login for its button. */
  constructor(grant, changed, logIn) {
    this.changed = changed;
    this.logIn = logIn;
    this.node = el("div", { class: "details", hidden: true, id: `details-${grant.grant_id}` });
    this.why = el("div", { class: "why-lines" });
    this.facts = el("div", { class: "facts" });
    this.past = el("div");
  }

  /** Show *grant*, and what the broker says of it in sentences. */
  async fill(grant) {
    this.grant = grant;
    const parked = grant.state === "parked";
    // A button that is being pressed must not disappear: the buttons stay while they mean the same.
    const meaning = JSON.stringify([parked, grant.rights]);
    if (this.meaning !== meaning) {
      this.meaning = meaning;
      this.node.replaceChildren(this.why, this.buttons(), this.facts, this.past);
    }
    const account = grant.account ? accountWords(grant.account) : "not known";
    this.facts.replaceChildren(
      pairs("owned", [["account", account], ["owner", grant.owner ?? "none written down"], ["label", grant.label ?? "none"]]),
      pairs("times", [
        ["state", grant.reason ? `${grant.state}: ${grant.reason}` : grant.state],
        ["generation", String(grant.generation)],
        ["granted", moment(grant.granted_at)],
        ["token since", grant.issued_at ? moment(grant.issued_at) : "none"],
        ["expires", grant.expires_at ? moment(grant.expires_at) : "–"],
        ["next refresh", parked ? "none: parked" : moment(grant.refresh_at)],
        ["log in by", grant.reason === DEAD ? "now" : grant.reauthorize_by ? moment(grant.reauthorize_by) : "no limit known"],
        ["scope", grant.scope ?? "–"],
        ...(grant.last?.detail ? [["last detail", grant.last.detail]] : []),
      ]));
    const said = await settle(ask("GET", grantPath(grant.grant_id, `/explanation?${zone()}`)));
    if (this.grant !== grant) return;
    this.explain(said);
    if (!(said instanceof Refused)) this.past.replaceChildren(attempts(said));
  }

  /** The sentences of `token-broker explain`: why, what happens next, what a person must do. */
  explain(said) {
    if (said instanceof Refused) {
      const why = said.status === 404 ? "this grant is gone, or this broker is older than this page" : said.message;
      this.why.replaceChildren(el("p", { class: "wrong" }, `The explanation cannot be read: ${why}.`));
      return;
    }
    const lines = [el("p", { class: "sentence" }, ...coded(said.why))];
    if (said.next) lines.push(el("p", {}, el("b", {}, "Next: "), ...coded(said.next)));
    if (said.person) lines.push(el("p", {}, el("b", {}, "To do: "), ...coded(`${said.person}.`)));
    if (said.command) lines.push(el("p", {}, el("code", {}, said.command)));
    this.why.replaceChildren(...lines);
  }

  /** A button for each act that the key allows, and a sentence about the others. */
  buttons() {
    const { grant } = this;
    const does = (work) => (event) => act(event.currentTarget, this.changed, () => work(this.grant));
    const acts = [
      grant.state === "parked" ? { label: "Try again", right: "admin", onclick: does(tryAgain) }
        : { label: "Refresh now", right: "refresh", onclick: does(refreshNow) },
      { label: "Log in", right: "login", onclick: (event) => this.logIn(event.currentTarget) },
      { label: "Log out", right: "admin", onclick: does(async (held) => (await logOut(held)) ?? ""), kind: "quiet danger" },
    ];
    const buttons = acts.filter(({ right }) => may(grant, right)).map(({ label, kind = "", onclick }) =>
      el("button", { class: kind, "aria-label": `${label} ${grant.grant_id}`, onclick }, label));
    const refused = refusedWords(grant, acts);
    return el("div", {}, buttons.length ? el("p", { class: "buttons" }, ...buttons) : null,
      refused ? el("p", { class: "hint refused" }, ...coded(refused)) : null);
  }
}

function attempts(past) {
  if (!past.attempts?.length) return el("p", { class: "hint" }, "No token request yet.");
  const columns = ["when", "outcome", "decision", "broker"];
  const rows = past.attempts.toReversed().map((attempt) => {
    const cells = [moment(attempt.at), attempt.meaning, attempt.decision, attempt.replica];
    return el("tr", { role: "row" }, ...cells.map((text, index) => el("td", { role: "cell", dataset: { label: columns[index] } }, text)));
  });
  const head = columns.map((name) => el("th", { scope: "col", role: "columnheader" }, name));
  return el("table", { role: "table" }, el("caption", {}, "Last token requests"),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...head)), el("tbody", { role: "rowgroup" }, ...rows));
}
