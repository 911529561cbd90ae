// The providers: the grants of each by state, its last hour, and why it is suspended.

import { act, retryProvider } from "./actions.js";
import { el, setText, svg } from "./dom.js";
import { since, until } from "./time.js";

const MINUTES = 60, HEIGHT = 24;

/** Draw the last hour as bars: refreshed, with failed on top in another colour. */
function chart(history) {
  const most = Math.max(1, ...history.map((minute) => minute.refreshed + minute.failed));
  const bars = history.slice(-MINUTES).flatMap((minute, index) => {
    const good = (minute.refreshed / most) * HEIGHT, bad = (minute.failed / most) * HEIGHT, x = index * 4;
    const bar = (kind, y, height) => svg("rect", { class: kind, x, y: y.toFixed(2), width: 3, height: height.toFixed(2) });
    return [...(good ? [bar("good", HEIGHT - good, good)] : []), ...(bad ? [bar("bad", HEIGHT - good - bad, bad)] : [])];
  });
  const sum = (name) => history.reduce((total, minute) => total + minute[name], 0);
  const [refreshed, failed] = [sum("refreshed"), sum("failed")];
  if (!refreshed && !failed) return el("div", { class: "hour" }, el("span", {}, "last hour: nothing refreshed"));
  const words = `last hour: ${refreshed.toLocaleString()} refreshed, ${failed.toLocaleString()} failed`;
  return el("div", { class: "hour" },
    svg("svg", { viewBox: `0 0 ${MINUTES * 4 - 1} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: MINUTES * 4, y1: HEIGHT, y2: HEIGHT }), ...bars),
    el("span", {}, words));
}

export class ProviderCard {
  constructor(provider, changed) {
    this.why = el("p", { class: "why" });
    this.counts = el("p", { class: "counts" });
    this.hour = el("div");
    this.retry = el("button", { onclick: () => act(this.retry, changed, () => retryProvider(this.provider)) }, "Try again");
    this.retry.setAttribute("aria-label", `Try ${provider.provider} again`);
    this.node = el("li", { class: "card" },
      el("h3", {}, provider.provider, el("small", {}, provider.kind ?? "not in the settings")), this.why, this.counts, this.hour, this.retry);
  }

  show(provider, adminOfAll) {
    this.provider = provider;
    this.node.dataset.level = provider.suspended ? "bad" : provider.failures || !provider.kind ? "warn" : provider.answered_at ? "good" : "wait";
    this.retry.hidden = !(provider.suspended || provider.failures) || !adminOfAll || !provider.kind;
    const counts = ["due", "leased", "parked"].filter((state) => provider.grants[state]).map((state) => `${provider.grants[state].toLocaleString()} ${state}`);
    setText(this.counts, counts.join(" · ") || "no grants");
    const seen = JSON.stringify(provider.history ?? []);
    if (seen !== this.seen) this.hour.replaceChildren(...(provider.history?.length ? [chart(provider.history)] : []));
    this.seen = seen;
    this.tickTime();
  }

  /** Update what depends on the time; called every second. */
  tickTime() {
    const { provider } = this;
    const detail = provider.detail ? `: ${provider.detail}` : "";
    const next = provider.not_before ? `, next try ${until(provider.not_before)}` : "";
    setText(this.why, provider.suspended
      ? `suspended ${provider.suspended_at ? since(provider.suspended_at) : ""} (${provider.suspended})${detail}${next}`
      : provider.failures ? `${provider.failures === 1 ? "1 failure" : `${provider.failures} failures in a row`}${detail}${next}`
      : !provider.kind ? (provider.grants.due + provider.grants.leased + provider.grants.parked ? "its grants are not refreshed" : "no longer asked")
      : provider.answered_at ? "answers" : "not asked yet");
  }
}
