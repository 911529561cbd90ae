// What a person can do to a grant or a provider: each function sends a request and returns a sentence about it.

import { ask, grantPath, Refused, settle } from "./api.js";
import { $, notify } from "./dom.js";
import { since, span } from "./time.js";

const POLL = 1500;

/** Run *work* for its button, ignore further presses meanwhile, and show the sentence that it returns. */
export async function act(button, changed, work) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true"; // `disabled` would remove the focus
  try {
    notify(await work());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    notify(error.message, true);
  } finally {
    button.ariaBusy = null;
    changed();
  }
}

export async function refreshNow(grant) {
  // Like a caller whose token got a 401: it names the shown generation, so two clicks cause one refresh.
  const asked = await settle(ask("POST", grantPath(grant.grant_id, "/refresh"), {
    headers: { "If-Match": `"${grant.generation}"`, Prefer: "return=minimal" },
  }));
  if (asked instanceof Refused) {
    if (asked.code !== "too_fresh" || !grant.issued_at) throw asked;
    const again = asked.retryAfter ? `, again in ${span(asked.retryAfter)}` : "";
    return `${grant.grant_id}: refreshed ${since(grant.issued_at)}${again}.`;
  }
  return `${grant.grant_id} has a new token.`;
}

export async function tryAgain(grant) {
  const body = await ask("POST", grantPath(grant.grant_id, "/retry"));
  if (body.warning) return `${grant.grant_id} waits: ${body.warning}.`;
  return body.state === "leased" ? `${grant.grant_id} is being refreshed right now.` : `${grant.grant_id} is retried now.`;
}

export async function retryProvider(provider) {
  const body = await ask("POST", `v1/providers/${encodeURIComponent(provider.provider)}/retry`);
  return `Requests to ${provider.provider} resume; parked grants retried: ${body.grants_taken_up}.`;
}

/** Log out after a confirmation; null when the person cancels. */
export function logOut(grant) {
  const dialog = $("logout");
  $("logout-grant").textContent = grant.grant_id;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  }).then(async (sure) => {
    if (!sure) return null;
    const body = await ask("DELETE", grantPath(grant.grant_id));
    return `${grant.grant_id}: ${body.detail}.`;
  });
}

/** Start a login, open it in a new tab, and poll it until it is completed or the dialog is closed. */
export async function logIn(grantId, provider, changed) {
  const started = await ask("POST", grantPath(grantId, "/login"), { body: { provider } });
  const dialog = $("login"), link = $("login-link"), message = $("login-said");
  $("login-grant").textContent = grantId;
  $("login-provider").textContent = provider;
  link.href = started.login_url;
  message.textContent = "Waiting for the login…";
  message.dataset.level = "wait";
  $("login-replace").hidden = true;
  $("login-replace").onclick = () => act($("login-replace"), changed, async () => {
    await ask("POST", grantPath(grantId, `/login/${encodeURIComponent(started.ticket)}/replace`));
    return `${grantId} is of the other account now.`;
  });
  dialog.showModal();
  link.focus();
  link.click();
  pollLogin(grantId, started.ticket, dialog, message, changed);
}

async function pollLogin(grantId, ticket, dialog, message, changed) {
  const own = (dialog.dataset.ticket = ticket);
  while (dialog.open && dialog.dataset.ticket === own) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    let flow;
    try {
      flow = await ask("GET", grantPath(grantId, `/login/${encodeURIComponent(ticket)}`));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 0 || error.status === 503) continue;
      flow = { status: "failed", error_description: error.message };
    }
    if (dialog.dataset.ticket !== own) return;
    if (flow.status === "completed") {
      message.textContent = `Logged in: token-broker now keeps ${grantId} alive.`;
      message.dataset.level = "good";
      $("login-replace").hidden = true;
      changed();
      return;
    }
    // The link of a failed login can be opened again, so polling continues.
    message.dataset.level = flow.status === "failed" ? "bad" : "wait";
    const words = flow.status === "failed" ? `Not logged in: ${flow.error_description}` : "Waiting for the login…";
    if (message.textContent !== words) message.textContent = words;
    $("login-replace").hidden = flow.error !== "other_account";
  }
}
