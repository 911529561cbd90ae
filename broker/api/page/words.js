// The state of a grant, in words and as a level. Pure: a row of the list and the time in, text out.

import { span } from "./time.js";

export const DEAD = "reauthorization_required";

/** Return whether callers get a valid token of it now; a broker of the version before does not say, but the expiry does. */
export const isServed = (grant, at) => grant.served ?? Boolean(grant.expires_at && grant.expires_at > at);

/** {level: good | warn | bad, word}: alive, failing or dead, each with its own mark; the words are the broker's. */
export function condition(grant, at) {
  const failing = grant.failures > 0, served = isServed(grant, at), parked = grant.state === "parked";
  const words = grant.unreadable ? ["sealed with a missing key"] : [grant.state_words ?? grant.state];
  if (parked && grant.reason && grant.reason !== DEAD && !grant.unreadable) words[0] += `: ${grant.reason}`;
  if (failing) words.push(grant.failures === 1 ? "1 failure" : `${grant.failures} failures in a row`);
  if (!served) words.push(grant.unserved_since ? `unserved for ${span(at - grant.unserved_since)}` : "unserved");
  return { level: parked || grant.unreadable ? "bad" : failing || !served ? "warn" : "good", word: words.join(" · ") };
}

const OUTCOMES = {
  unchanged: "same token", not_sent: "nothing sent", busy: "provider busy", unknown: "no clear response", dead: "refused for good",
  registration: "client refused", rejected: "refused",
};

/** The outcome of a token request in a word or two; the details have the whole sentence. */
export const outcomeWord = (outcome) => OUTCOMES[outcome] ?? outcome.replaceAll("_", " ");

/** Whether it belongs among those that are well: the list has these last. */
export const isHealthy = (grant, at) => condition(grant, at).level === "good";

/** An account in words: jane@example.com (248289761001). */
export function accountWords({ id, email, preferred_username: user, name }) {
  const known = email ?? user ?? name;
  return known && known !== id ? `${known} (${id})` : id;
}
