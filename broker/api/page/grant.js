// One grant in the list: a line that is updated in place, and details on demand.

import { act, logIn, tryAgain } from "./actions.js";
import { now } from "./api.js";
import { Details } from "./details.js";
import { el, setText } from "./dom.js";
import { may } from "./rights.js";
import { since, span, until } from "./time.js";
import { accountWords, condition, DEAD, outcomeWord } from "./words.js";

const SOON = 7 * 86400, VERY_SOON = 3 * 86400, OVERDUE = 5;
const cell = (name, label, ...children) => el("span", { class: `cell ${name}` }, el("span", { class: "label" }, label), ...children);

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
    this.details = new Details(grant, changed, (button) => this.logIn(button));
    this.name = el("button", {
      class: "id", "aria-expanded": "false", "aria-controls": this.details.node.id, onclick: () => this.toggle(),
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
      this.details.node);
    this.show(grant);
  }

  show(grant) {
    const before = this.grant;
    this.grant = grant;
    setText(this.provider, grant.provider);
    setText(this.whose, whose(grant));
    this.whose.hidden = !this.whose.textContent;
    // A broker of the version before, behind the same address, calls them attempts.
    grant.failures ??= grant.attempts ?? 0;
    this.node.dataset.state = grant.state;
    this.last.title = grant.last?.detail ?? "";
    const wanted = grant.reason === DEAD ? "Log in" : grant.state === "parked" || (grant.state === "due" && grant.failures) ? "Try again" : "";
    const action = may(grant, wanted === "Log in" ? "login" : "admin") ? wanted : "";
    setText(this.act, action);
    this.act.hidden = !action;
    this.act.setAttribute("aria-label", `${action} ${grant.grant_id}`);
    this.tickTime();
    const differs = before?.last?.at !== grant.last?.at || before?.state !== grant.state || before?.generation !== grant.generation
      || String(before?.rights) !== String(grant.rights);
    if (!this.details.node.hidden && differs) this.details.fill(grant);
  }

  /** Update what depends on the time; called every second. */
  tickTime() {
    const { grant } = this, at = now(), { level, word } = condition(grant, at);
    setText(this.state, word);
    this.node.dataset.level = level;
    const life = grant.expires_at ? Math.max(1, grant.expires_at - grant.issued_at) : 0;
    const left = grant.expires_at ? Math.max(0, grant.expires_at - at) : 0;
    const part = life ? Math.min(1, left / life) : 0;
    this.fill.style.width = `${(part * 100).toFixed(1)}%`;
    this.fill.dataset.level = left === 0 ? "bad" : part < 0.12 ? "warn" : "good";
    const planned = life ? (grant.expires_at - grant.refresh_at) / life : 0;
    this.tick.hidden = grant.state === "parked" || planned <= 0 || planned >= 1;
    this.tick.style.left = `min(${(planned * 100).toFixed(1)}%, 100% - 2px)`;
    setText(this.left, grant.expires_at ? (left > 0 ? span(left) : `expired ${since(grant.expires_at)}`) : "no token yet");
    setText(this.next, grant.state === "parked" ? "none" : grant.state === "leased" ? "right now"
      : at - grant.refresh_at > OVERDUE ? `overdue ${span(at - grant.refresh_at)}` : until(grant.refresh_at));
    setText(this.last, grant.last ? `${outcomeWord(grant.last.outcome)} ${since(grant.last.at)}`
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
    this.details.node.hidden = !this.details.node.hidden;
    this.name.setAttribute("aria-expanded", String(!this.details.node.hidden));
    if (!this.details.node.hidden) this.details.fill(this.grant);
  }
}
