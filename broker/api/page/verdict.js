// The top line: whether all is well, or what a person must do. Pure: what was heard in, words out.

import { moment, span } from "./time.js";

const many = (count, one, more = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : more}`;
const SOON = 7 * 86400;

/** How many grants there are, by what the providers' sorted sets count; for an admin of some, by what is listed. */
function counted(heard, state) {
  if (!heard.adminOfAll) return state === "parked" ? heard.parked.length : null;
  return heard.providers.reduce((sum, provider) => sum + (provider.grants[state] ?? 0), 0);
}

function aboutProviders(providers) {
  const found = [];
  for (const provider of providers) {
    if (provider.suspended) {
      found.push({
        level: "bad", provider,
        words: `Provider ${provider.provider} refuses us (${provider.suspended}): check its client id and secret.`,
      });
    } else if (provider.failures) {
      found.push({
        level: "warn", provider,
        words: `Provider ${provider.provider} failed ${many(provider.failures, "time")} in a row. It is asked again by itself: nothing to do yet.`,
      });
    }
  }
  return found;
}

function aboutParked(heard) {
  const dead = heard.parked.filter((grant) => grant.reason === "reauthorization_required");
  const other = heard.parked.filter((grant) => grant.reason !== "reauthorization_required");
  const total = counted(heard, "parked");
  const beyond = Math.max(0, total - heard.parked.length);
  const found = [];
  const about = (grants, words) => {
    if (grants.length) found.push({ level: "bad", grants: grants.map((grant) => grant.grant_id), words });
  };
  if (beyond > 0) {
    about(heard.parked, `${many(total, "grant")} are parked: log in again, or try again, one by one or by provider.`);
  } else {
    about(dead, `${many(dead.length, "grant")} must be logged in again: the provider no longer accepts ${dead.length === 1 ? "it" : "them"}.`);
    about(other, `${many(other.length, "grant")} ${other.length === 1 ? "was" : "were"} refused: look at the reason, then try again.`);
  }
  return found;
}

function aboutHealth(health) {
  return Object.entries(health?.checks ?? {})
    .filter(([name, check]) => check.status !== "ok" && !name.startsWith("provider "))
    .map(([name, check]) => ({
      level: name === "redis" || health.status === "failed" ? "bad" : "warn", words: `${name}: ${check.detail}.`,
    }));
}

function aboutLimits(grants, at) {
  const soon = grants.filter((grant) => grant.reauthorize_by && grant.reauthorize_by - at < SOON && grant.state !== "parked");
  if (!soon.length) return [];
  const first = soon.reduce((a, b) => (a.reauthorize_by < b.reauthorize_by ? a : b));
  const words = soon.length === 1 ? `${first.grant_id} must be logged in again` : `${many(soon.length, "grant")} must be logged in again soon, ${first.grant_id}`;
  return [{ level: "warn", grants: [first.grant_id], words: `${words} within ${span(first.reauthorize_by - at)}.` }];
}

/** {level: good | warn | bad | wait, words, aside, findings: [{level, words, grants?, provider?}]} */
export function verdict(heard, at) {
  if (heard.silentSince) {
    return {
      level: "bad", words: "token-broker does not answer.", findings: [],
      aside: `Check that it runs. What you see below is from ${moment(heard.silentSince)}; this page asks again by itself.`,
    };
  }
  if (!heard.providers) return { level: "wait", words: heard.trouble ?? "Asking…", aside: "", findings: [] };
  const findings = [
    ...aboutHealth(heard.health), ...aboutParked(heard), ...aboutProviders(heard.providers), ...aboutLimits(heard.grants, at),
  ];
  const bad = findings.filter((finding) => finding.level === "bad");
  if (bad.length) {
    const words = bad.length === 1 ? bad[0].words : `${bad.length} things need a person.`;
    return { level: "bad", words, aside: "", findings };
  }
  if (findings.length) {
    const words = findings.length === 1 ? findings[0].words : "Tokens are served; some things to keep an eye on.";
    return { level: "warn", words, aside: "", findings };
  }
  const total = heard.adminOfAll ? heard.providers.reduce((n, p) => n + Object.values(p.grants).reduce((a, b) => a + b, 0), 0) : null;
  const whose = heard.adminOfAll ? "" : " among those you look after";
  if (total === 0) return { level: "good", words: "Nothing to look after yet: no grant is logged in.", aside: "", findings };
  const kept = total === null ? "" : `${many(total, "grant is", "grants are")} kept alive at ${many(heard.providers.length, "provider")}.`;
  return { level: "good", words: `All is well${whose}.`, aside: kept, findings };
}
