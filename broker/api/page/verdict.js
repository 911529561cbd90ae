// The top line: the broker's own verdict, its causes, and what a person must do. The page judges nothing itself.

import { now } from "./api.js";
import { act, retryProvider } from "./actions.js";
import { $, coded, el, setText } from "./dom.js";
import { moment, span, until } from "./time.js";

const LEVELS = { ok: "good", recovering: "warn", login_needed: "bad", failing: "bad" };
const MARKS = { good: "✓", warn: "!", bad: "✗", wait: "…" };
const RETRIED = new Set(["provider_suspended", "provider_failing", "parked"]);

/** {level, text, aside, causes} of what was fetched. */
export function topLine(data) {
  const { verdict } = data;
  if (data.unansweredSince) {
    return {
      level: "bad", text: "token-broker does not answer.", causes: [],
      aside: `Check that it runs. The data below is from ${moment(data.unansweredSince)}; this page tries again by itself.`,
    };
  }
  if (!verdict) return { level: "wait", text: "Loading…", aside: "", causes: [] };
  if (verdict.missing) {
    return {
      level: "wait", text: "This broker is older than this page: it gives no verdict.", causes: [],
      aside: "Whether every grant has a valid token is not known here; the list below is what the broker says of each. Update all brokers.",
    };
  }
  if (!verdict.summary) return { level: "warn", text: `The verdict cannot be read: ${verdict.message}.`, aside: "", causes: [] };
  return { level: LEVELS[verdict.status] ?? "bad", text: verdict.summary, aside: aside(verdict), causes: verdict.causes ?? [] };
}

/** When the next token ends; how many are well stands in the list where others are not. */
const aside = ({ status, alive, next_end_at: next }) => (status === "ok" && alive && next ? `${alive.toLocaleString()} alive, the next ends ${until(next)}.` : "");

export class Verdict {
  /** *find* shows a grant in the list; *changed* fetches everything again. */
  constructor(find, changed) {
    this.find = find;
    this.changed = changed;
    this.times = [];
  }

  show(data, adminOfAll) {
    const top = topLine(data);
    this.data = data;
    $("verdict").dataset.level = top.level;
    if (top.text !== this.text) $("words").replaceChildren(...coded(top.text));
    this.text = top.text;
    setText($("aside"), top.aside);
    document.title = `${MARKS[top.level]} token-broker`;
    const seen = JSON.stringify([top.causes, top.level, adminOfAll]);
    if (seen !== this.seen) {
      this.times = [];
      $("findings").replaceChildren(...top.causes.map((cause) => this.line(cause, top, data.providers ?? [], adminOfAll)));
    }
    this.seen = seen;
    this.tickTime();
  }

  clear() {
    this.seen = this.text = null;
    this.times = [];
    $("findings").replaceChildren();
  }

  line(cause, top, providers, adminOfAll) {
    const level = top.level === "bad" && (cause.unserved || cause.action) ? "bad" : "warn";
    const words = el("span", { class: "sentence" }, ...coded(cause.sentence));
    const when = el("span", { class: "when" });
    this.times.push([when, cause]);
    const known = providers.some((provider) => provider.provider === cause.provider && provider.kind);
    const buttons = (cause.examples ?? []).map((id) => el("button", { class: "pointer mono", onclick: () => this.find(id) }, id));
    if (RETRIED.has(cause.kind) && known && adminOfAll) {
      const retry = (event) => act(event.currentTarget, this.changed, () => retryProvider({ provider: cause.provider }));
      buttons.push(el("button", { class: "pointer", onclick: retry }, `Try ${cause.provider} again now`));
    }
    return el("li", { dataset: { level } }, words, when,
      cause.action ? el("span", { class: "todo" }, el("b", {}, "To do: "), ...coded(cause.action)) : null,
      buttons.length ? el("span", { class: "pointers" }, ...buttons) : null);
  }

  /** Update what depends on the time; called every second. */
  tickTime() {
    for (const [node, cause] of this.times) {
      const parts = [];
      if (cause.since) parts.push(`For ${span(now() - cause.since)}`);
      if (cause.next) parts.push(`Next: ${cause.next}`);
      setText(node, parts.join(". "));
      node.hidden = !parts.length;
    }
  }
}
