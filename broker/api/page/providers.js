// The providers: the grants of each, its last day as a picture and in words, and why it is suspended.

import { ask, now, settle, Refused } from "./api.js";
import { act, retryProvider } from "./actions.js";
import { $, arrange, el, setText, svg } from "./dom.js";
import { since, until } from "./time.js";

const HEIGHT = 24, DEPTH = 8, QUARTER_MINUTES = 15, SHOWN = 24, DAY_EVERY = 60;
const RANK = { bad: 0, warn: 1, wait: 2, good: 2 };
const sum = (counts) => counts.reduce((total, count) => total + count, 0);

/** Draw refreshed with failed on top, and below the line the minutes without a token; the words say the same. */
function picture({ refreshed, failed, unserved }, span) {
  const most = Math.max(1, ...refreshed.map((count, index) => count + failed[index]));
  const bar = (kind, x, y, height) => svg("rect", { class: kind, x, y: y.toFixed(2), width: 3, height: height.toFixed(2) });
  const bars = refreshed.flatMap((count, index) => {
    const good = (count / most) * HEIGHT, bad = (failed[index] / most) * HEIGHT, x = index * 4;
    const below = ((unserved?.[index] ?? 0) / QUARTER_MINUTES) * DEPTH;
    return [good && bar("good", x, HEIGHT - good, good), bad && bar("bad", x, HEIGHT - good - bad, bad), below && bar("gone", x, HEIGHT + 1, below)]
      .filter(Boolean);
  });
  const totals = [`${sum(refreshed).toLocaleString()} refreshed`, `${sum(failed).toLocaleString()} failed`];
  if (unserved) totals.push(`${sum(unserved).toLocaleString()} min unserved`);
  const words = bars.length ? `${span}: ${totals.join(", ")}` : `${span}: nothing refreshed`;
  const width = refreshed.length * 4 - 1;
  return el("div", { class: "day" }, bars.length ? svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT + DEPTH + 1}`, preserveAspectRatio: "none", "aria-hidden": "true",
  }, svg("line", { x1: 0, x2: width, y1: HEIGHT, y2: HEIGHT }), ...bars) : null, el("span", {}, words));
}

const level = (provider) => (provider.suspended ? "bad" : provider.failures || !provider.kind ? "warn" : provider.answered_at ? "good" : "wait");

class ProviderCard {
  constructor(provider, changed) {
    this.why = el("p", { class: "why" });
    this.counts = el("p", { class: "counts" });
    this.picture = el("div");
    this.retry = el("button", { onclick: () => act(this.retry, changed, () => retryProvider(this.provider)) }, "Try again");
    this.retry.setAttribute("aria-label", `Try again ${provider.provider}`);
    this.node = el("li", { class: "card" },
      el("h3", {}, provider.provider, el("small", {}, provider.kind ?? "not in the settings")), this.why, this.counts, this.picture, this.retry);
  }

  show(provider, unserved, day, adminOfAll) {
    this.provider = provider;
    this.node.dataset.level = level(provider);
    this.retry.hidden = !(provider.suspended || provider.failures) || !adminOfAll || !provider.kind;
    const { due, leased, parked } = provider.grants, all = due + leased + parked;
    const counts = [`${all.toLocaleString()} ${all === 1 ? "grant" : "grants"}`];
    if (unserved) counts.push(`${unserved.toLocaleString()} unserved`);
    if (parked) counts.push(`${parked.toLocaleString()} parked`);
    setText(this.counts, all ? counts.join(" · ") : "no grants");
    const seen = JSON.stringify(day ?? provider.history ?? []);
    if (seen !== this.seen) this.picture.replaceChildren(...this.draw(provider, day));
    this.seen = seen;
    this.tickTime();
  }

  draw({ history }, day) {
    if (day) return [picture(day, "last day")];
    if (!history?.length) return [];
    const column = (name) => history.map((minute) => minute[name]);
    return [picture({ refreshed: column("refreshed"), failed: column("failed") }, "last hour")];
  }

  /** Update what depends on the time; called every second. */
  tickTime() {
    const { provider } = this;
    const detail = provider.detail ? `: ${provider.detail}` : "";
    const next = provider.not_before > now() ? `, next try ${until(provider.not_before)}` : ""; // else grants say when
    setText(this.why, provider.suspended
      ? `suspended ${provider.suspended_at ? since(provider.suspended_at) : ""} (${provider.suspended})${detail}${next}`
      : provider.failures ? `${provider.failures === 1 ? "1 failure" : `${provider.failures} failures in a row`}${detail}${next}`
      : !provider.kind ? (provider.grants.due + provider.grants.leased + provider.grants.parked ? "its grants are not refreshed" : "no longer asked")
      : provider.answered_at ? "answers" : "not asked yet");
  }
}

/** All cards: what is wrong first, and of the rest as many as a person reads. */
export class Providers {
  /** *changed* fetches everything again, *redraw* shows what is there. */
  constructor(changed, redraw) {
    this.changed = changed;
    this.redraw = redraw;
    this.cards = new Map();
    this.days = new Map();
    this.all = false;
    $("more-providers").addEventListener("click", () => { this.all = true; this.fetchedAt = 0; changed(); });
  }

  clear() {
    this.cards.clear();
    this.days.clear();
    this.all = false;
    this.fetchedAt = 0;
    $("providers").replaceChildren();
  }

  show(providers, verdict, adminOfAll) {
    const ordered = providers.toSorted((a, b) => RANK[level(a)] - RANK[level(b)] || (a.provider < b.provider ? -1 : 1));
    const shown = this.all ? ordered : ordered.slice(0, SHOWN);
    arrange($("providers"), shown.map((provider) => {
      const name = provider.provider;
      if (!this.cards.has(name)) this.cards.set(name, new ProviderCard(provider, this.changed));
      const card = this.cards.get(name);
      card.show(provider, verdict?.providers?.[name]?.unserved, this.days.get(name), adminOfAll);
      return card.node;
    }));
    const names = new Set(shown.map((provider) => provider.provider));
    for (const name of this.cards.keys()) if (!names.has(name)) this.cards.delete(name);
    $("more-providers").hidden = shown.length === ordered.length;
    setText($("more-providers"), `Show ${(ordered.length - shown.length).toLocaleString()} more`);
    if (shown.length && now() - (this.fetchedAt ?? 0) > DAY_EVERY) this.fetchDays([...names]);
  }

  /** The last day changes by the quarter of an hour, so it is asked for once a minute. */
  async fetchDays(names) {
    this.fetchedAt = now();
    for (let start = 0; start < names.length; start += 100) {
      const query = new URLSearchParams(names.slice(start, start + 100).map((name) => ["provider", name]));
      const body = await settle(ask("GET", `v1/history?${query}`));
      if (body instanceof Refused) return; // an older broker: the last hour is drawn
      for (const day of body.providers) this.days.set(day.provider, day);
    }
    this.redraw();
  }

  tickTime() {
    for (const card of this.cards.values()) card.tickTime();
  }
}
