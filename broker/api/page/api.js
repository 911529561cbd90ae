// Asking the broker, as whoever signed in. The cookie is the browser's; this header says that the page itself asks.

const TIMEOUT = 20000;
let ahead = 0;

/** Now by the broker's clock, in epoch seconds: this computer's own may be off. */
export const now = () => Date.now() / 1000 + ahead;

/** An answer other than 2xx. `status` 0: nobody answered. */
export class Refused extends Error {
  constructor(status, code, words) {
    super(words);
    this.status = status;
    this.code = code;
  }
}

export async function ask(method, path, { body, headers } = {}) {
  let answer, told;
  try {
    answer = await fetch(path, {
      method,
      headers: { "X-Broker-Page": "1", ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body && JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT),
    });
    told = answer.status === 204 ? {} : await answer.json();
  } catch {
    throw new Refused(0, "no_answer", "token-broker does not answer");
  }
  const date = Date.parse(answer.headers.get("Date"));
  // `Date` has whole seconds: only more than one of difference is a clock that is off.
  if (date) ahead = Math.abs(date - Date.now()) > 1500 ? (date - Date.now()) / 1000 : 0;
  if (!answer.ok && path !== "healthz") {
    throw new Refused(answer.status, told.error, told.error_description ?? `HTTP ${answer.status}`);
  }
  return told;
}

export const grantPath = (id, rest = "") => `v1/grants/${encodeURIComponent(id)}${rest}`;
