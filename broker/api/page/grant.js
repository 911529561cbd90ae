// One grant in the list: a line that is updated in place, and details on demand.

import { act, logIn, logOut, refreshNow, tryAgain } from "./actions.js";
import { ask, grantPath, now, Refused } from "./api.js";
import { el, setText } from "./dom.js";
import { moment, since, span, until } from "./time.js";

const SOON = 7 * 86400, VERY_SOON = 3 * 86400;
const DEAD = "reauthorization_required", REASONS = { [DEAD]: "log in again" };
const cell = (name, label, ...children) => el("span", { class: `cell ${name}` }, el("span", { class: "label" }, label), ...children);

/** An account in words: jane@example.com (248289761001). */
function accountWords({ id, email, preferred_username: user, name }) {
  const known = email ?? user ?? name;
  return known && known !== id ? `${known} (${id})` : id;
}

/** Whose a grant is, as far as that is known. */
const whose = (grant) => [grant.account && accountWords(grant.account), grant.owner, grant.label].filter(Boolean).join(" · ");

export class GrantLine {
  constructor(grant, changed) {
    this.changed = changed;
    this.fill = el("i", { class: "fill" });
    this.tick = el("i", { class: "tick" });
    this.left = el("span", { class: "left" });
    this.next = el("span");
    this.last = el("span", { class: "outcome" });
    this.by = el("span");
    this.provider = el("span");
    this.state = el("span", { class: "state" });
    this.whose = el("span", { class: "whose" });
    this.act = el("button", { class: "act", onclick: () => this.actNext() });
    this.details = el("div", { class: "details", hidden: true, id: `details-${grant.grant_id}` });
    this.name = el("button", {
      class: "id", "aria-expanded": "false", "aria-controls": this.details.id, onclick: () => this.toggle(),
    }, grant.grant_id);
    this.node = el("li", { class: "grant" },
      el("div", { class: "line" },
        el("span", { class: "cell who" }, this.name, this.state, this.whose),
        cell("at", "provider", this.provider),
        cell("life", "life left", el("span", { class: "track", "aria-hidden": "true" }, this.fill, this.tick), this.left),
        cell("next", "next refresh", this.next),
        cell("last", "last outcome", this.last),
        cell("by", "log in by", this.by),
        el("span", { class: "cell do" }, this.act)),
      this.details);
    this.show(grant);
  }

  show(grant) {
    const before = this.grant;
    this.grant = grant;
    setText(this.provider, grant.provider);
    setText(this.whose, whose(grant));
    this.whose.hidden = !this.whose.textContent;
    // A broker of the version before, behind the same address, calls them attempts.
    const failures = grant.failures ?? grant.attempts;
    const failing = grant.state === "due" && failures > 0;
    const status = grant.unreadable ? "sealed with a missing key"
      : grant.state === "parked" ? REASONS[grant.reason] ?? grant.reason ?? "parked"
      : grant.state === "leased" ? "refreshing"
      : failing ? `failing, ${failures} in a row` : "";
    setText(this.state, status);
    this.node.dataset.state = grant.state;
    this.node.dataset.level = grant.state === "parked" || grant.unreadable ? "bad" : failing ? "warn" : "good";
    this.last.title = grant.last?.detail ?? "";
    const action = grant.reason === DEAD ? "Log in" : grant.state === "parked" || failing ? "Try again" : "";
    setText(this.act, action);
    this.act.hidden = !action;
    this.act.setAttribute("aria-label", `${action} ${grant.grant_id}`);
    this.tickTime();
    if (!this.details.hidden && (before?.last?.at !== grant.last?.at || before?.state !== grant.state)) this.fillDetails();
  }

  /** Update what depends on the time; called every second. */
  tickTime() {
    const { grant } = this, at = now();
    const life = grant.expires_at ? Math.max(1, grant.expires_at - grant.issued_at) : 0;
    const left = grant.expires_at ? Math.max(0, grant.expires_at - at) : 0;
    const part = life ? Math.min(1, left / life) : 0;
    this.fill.style.width = `${(part * 100).toFixed(1)}%`;
    this.fill.dataset.level = left === 0 ? "bad" : part < 0.12 ? "warn" : "good";
    const planned = life ? (grant.expires_at - grant.refresh_at) / life : 0;
    this.tick.hidden = grant.state === "parked" || planned <= 0 || planned >= 1;
    this.tick.style.left = `${(planned * 100).toFixed(1)}%`;
    setText(this.left, grant.expires_at ? (left > 0 ? span(left) : `expired ${since(grant.expires_at)}`) : "no token yet");
    setText(this.next, grant.state === "parked" ? "none" : grant.state === "leased" ? "right now" : until(grant.refresh_at));
    setText(this.last, grant.last ? `${grant.last.outcome.replaceAll("_", " ")} ${since(grant.last.at)}`
      : grant.expires_at ? `logged in ${since(grant.granted_at)}` : "none yet");
    const by = grant.reauthorize_by;
    const dead = grant.reason === DEAD;
    setText(this.by, dead ? "now" : by ? (by > at ? `in ${span(by - at)}` : "over") : "no limit");
    this.by.dataset.level = dead ? "bad" : by && by - at < SOON ? (by - at < VERY_SOON ? "bad" : "warn") : "none";
  }

  actNext() {
    if (this.grant.reason === DEAD) this.logIn(this.act);
    else act(this.act, this.changed, () => tryAgain(this.grant));
  }

  logIn(button) {
    act(button, () => {}, async () => {
      await logIn(this.grant.grant_id, this.grant.provider, this.changed);
      return "";
    });
  }

  toggle() {
    this.details.hidden = !this.details.hidden;
    this.name.setAttribute("aria-expanded", String(!this.details.hidden));
    if (!this.details.hidden) this.fillDetails();
  }

  buttons() {
    const { grant } = this;
    const button = (label, work, kind = "") => el("button", {
      class: kind, "aria-label": `${label} ${grant.grant_id}`,
      onclick: (event) => act(event.currentTarget, this.changed, () => work(this.grant)),
    }, label);
    const parked = grant.state === "parked";
    return el("p", { class: "buttons" },
      parked ? button("Try again", tryAgain) : button("Refresh now", refreshNow),
      el("button", { "aria-label": `Log in ${grant.grant_id}`, onclick: (event) => this.logIn(event.currentTarget) }, "Log in"),
      button("Log out", async (held) => (await logOut(held)) ?? "", "danger"));
  }

  async fillDetails() {
    const { grant } = this;
    const facts = [
      ["state", grant.reason ? `${grant.state}: ${grant.reason}` : grant.state],
      ["generation", String(grant.generation)],
      ["granted", moment(grant.granted_at)],
      ["token since", grant.issued_at ? moment(grant.issued_at) : "none"],
      ["expires", grant.expires_at ? moment(grant.expires_at) : "–"],
      ["next refresh", grant.state === "parked" ? "none: parked" : moment(grant.refresh_at)],
      ["log in by", grant.reason === DEAD ? "now" : grant.reauthorize_by ? moment(grant.reauthorize_by) : "no limit known"],
      ["scope", grant.scope ?? "–"],
      ["account", grant.account ? accountWords(grant.account) : "not known"],
    ];
    for (const name of ["owner", "label"]) if (grant[name]) facts.push([name, grant[name]]);
    if (grant.last?.detail) facts.push(["last detail", grant.last.detail]);
    const table = el("dl", {}, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    // A button that is being pressed must not disappear: the buttons stay while they mean the same.
    const kind = grant.state === "parked" ? "parked" : "alive";
    if (this.kind !== kind) this.held = this.buttons();
    this.kind = kind;
    if (this.details.firstElementChild === this.held) {
      while (this.held.nextSibling) this.held.nextSibling.remove();
      this.details.append(table);
    } else this.details.replaceChildren(this.held, table);
    const past = await fetchAttempts(grant.grant_id);
    if (past && table.isConnected) table.after(past);
  }
}

async function fetchAttempts(grantId) {
  let body;
  try {
    body = await ask("GET", grantPath(grantId, "/attempts"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return null;
  }
  if (!body.attempts?.length) return el("p", { class: "hint" }, "No token request yet.");
  const rows = body.attempts.toReversed().map((attempt) => el("tr", {},
    el("td", {}, moment(attempt.at)),
    el("td", {}, attempt.outcome.replaceAll("_", " ")),
    el("td", {}, [attempt.error, attempt.error_description].filter(Boolean).join(": ") || "–"),
    el("td", {}, attempt.decided || "–"),
    el("td", { class: "mono" }, attempt.replica)));
  const head = ["when", "outcome", "provider's error", "decision", "broker"].map((name) => el("th", { scope: "col" }, name));
  return el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": `Token requests of ${grantId}` },
    el("table", {}, el("caption", {}, "Last token requests"), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}
