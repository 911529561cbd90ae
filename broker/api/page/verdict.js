// The top line: whether all is well, or what a person must do. Pure: data in, text out.

import { moment, span } from "./time.js";

const many = (count, one, more = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : more}`;
const SOON = 7 * 86400;
const REGISTRATION = new Set(["invalid_client", "unauthorized_client", "incorrect_client_credentials"]);
const total = (provider) => Object.values(provider.grants).reduce((a, b) => a + b, 0);

/** Count grants by the providers' sorted sets; for an admin of some grants, by the list. */
function countGrants(data, state) {
  if (!data.adminOfAll) return state === "parked" ? data.parked.length : null;
  return data.providers.reduce((sum, provider) => sum + (provider.grants[state] ?? 0), 0);
}

function aboutProviders(providers) {
  const found = [];
  for (const provider of providers) {
    if (provider.suspended) {
      found.push({
        level: "bad", provider,
        text: `Provider ${provider.provider} refuses token-broker (${provider.suspended}): ${REGISTRATION.has(provider.suspended) ? "correct client id and secret in its settings" : "find out why; client id and secret are among the causes"}.`,
      });
    } else if (provider.failures) {
      found.push({
        level: "warn", provider,
        text: `Provider ${provider.provider} failed ${provider.failures === 1 ? "once" : `${many(provider.failures, "time")} in a row`}. token-broker retries it: nothing to do yet.`,
      });
    } else if (!provider.kind && total(provider)) {
      const waiting = many(total(provider), "grant is", "grants are");
      found.push({
        level: "warn", provider,
        text: `${waiting} not refreshed: provider ${provider.provider} is not in the settings. Put [providers.${provider.provider}] back and run token-broker reload.`,
      });
    }
  }
  return found;
}

function aboutParked(data) {
  const dead = data.parked.filter((grant) => grant.reason === "reauthorization_required");
  const other = data.parked.filter((grant) => grant.reason !== "reauthorization_required");
  const parked = countGrants(data, "parked");
  const beyond = Math.max(0, parked - data.parked.length);
  const found = [];
  const about = (grants, text) => {
    if (grants.length) found.push({ level: "bad", grants: grants.map((grant) => grant.grant_id), text });
  };
  if (beyond > 0) {
    about(data.parked, `${many(parked, "grant")} are parked: log in again, or try again, one by one or by provider.`);
  } else {
    about(dead, `${many(dead.length, "grant")} must be logged in again: the provider no longer accepts ${dead.length === 1 ? "it" : "them"}.`);
    about(other, `${many(other.length, "grant")} ${other.length === 1 ? "was" : "were"} refused: see the reason, then try again.`);
  }
  return found;
}

function aboutHealth(health) {
  return Object.entries(health?.checks ?? {})
    .filter(([name, check]) => check.status !== "ok" && !name.startsWith("provider "))
    .map(([name, check]) => ({
      level: name === "redis" || health.status === "failed" ? "bad" : "warn", text: `${name}: ${check.detail}.`,
    }));
}

function aboutLimits(grants, at) {
  const soon = grants.filter((grant) => grant.reauthorize_by && grant.reauthorize_by - at < SOON && grant.state !== "parked");
  if (!soon.length) return [];
  const first = soon.reduce((a, b) => (a.reauthorize_by < b.reauthorize_by ? a : b));
  const text = soon.length === 1 ? `${first.grant_id} must be logged in again` : `${many(soon.length, "grant")} must be logged in again soon, ${first.grant_id}`;
  return [{ level: "warn", grants: [first.grant_id], text: `${text} within ${span(first.reauthorize_by - at)}.` }];
}

/** {level: good | warn | bad | wait, text, aside, findings: [{level, text, grants?, provider?}]} */
export function verdict(data, at) {
  if (data.unansweredSince) {
    return {
      level: "bad", text: "token-broker does not answer.", findings: [],
      aside: `Check that it runs. The data below is from ${moment(data.unansweredSince)}; this page tries again by itself.`,
    };
  }
  if (!data.providers) return { level: "wait", text: data.trouble ?? "Loading…", aside: "", findings: [] };
  const findings = [
    ...aboutHealth(data.health), ...aboutParked(data), ...aboutProviders(data.providers), ...aboutLimits(data.grants, at),
  ];
  const bad = findings.filter((finding) => finding.level === "bad");
  if (bad.length) {
    const text = bad.length === 1 ? bad[0].text : `${bad.length} problems need a person.`;
    return { level: "bad", text, aside: "", findings };
  }
  if (findings.length) {
    const text = findings.length === 1 ? findings[0].text : `Tokens are served; there are ${findings.length} warnings.`;
    return { level: "warn", text, aside: "", findings };
  }
  const all = data.adminOfAll ? data.providers.reduce((sum, provider) => sum + total(provider), 0) : null;
  const whose = data.adminOfAll ? "" : " among the grants that you administer";
  if (all === 0) return { level: "good", text: "There are no grants yet.", aside: "", findings };
  const known = data.providers.filter((provider) => provider.kind).length;
  const kept = all === null ? "" : `${many(all, "grant is", "grants are")} kept alive at ${many(known, "provider")}.`;
  return { level: "good", text: `All is well${whose}.`, aside: kept, findings };
}
