// Requests to the broker, as the caller who signed in. The browser adds the cookie; a header proves that the page sent them.

const TIMEOUT = 20000;
let ahead = 0;

/** Now by the broker's clock, in epoch seconds: the clock of this computer may be wrong. */
export const now = () => Date.now() / 1000 + ahead;

/** A response other than 2xx. `status` 0: there was no response. */
export class Refused extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export async function ask(method, path, { body, headers } = {}) {
  let response, data;
  try {
    response = await fetch(path, {
      method,
      headers: { "X-Broker-Page": "1", ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body && JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT),
    });
    data = response.status === 204 ? {} : await response.json();
  } catch {
    throw new Refused(0, "no_answer", "token-broker does not answer");
  }
  const date = Date.parse(response.headers.get("Date"));
  // `Date` has whole seconds, so only a difference of more than one second means a wrong clock.
  if (date) ahead = Math.abs(date - Date.now()) > 1500 ? (date - Date.now()) / 1000 : 0;
  if (!response.ok) {
    const wait = Number(response.headers.get("Retry-After")) || null;
    throw new Refused(response.status, data.error, data.error_description ?? `HTTP ${response.status}`, wait);
  }
  return data;
}

/** Return the response's data, or the refusal itself: what fails alone must not hide the rest. */
export async function settle(asked) {
  try {
    return await asked;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return error;
  }
}

export const grantPath = (id, rest = "") => `v1/grants/${encodeURIComponent(id)}${rest}`;
