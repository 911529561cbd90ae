// What a person can have done to a grant or a provider.

import { ask, grantPath, Refused } from "./api.js";
import { $, say } from "./dom.js";

const POLL = 1500;

/** Run *work* once for a press of its button, however often it is pressed meanwhile; say what came of it. */
export async function acting(button, changed, work) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true"; // not `disabled`: that would take the focus away
  try {
    say(await work());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message, true);
  } finally {
    button.ariaBusy = null;
    changed();
  }
}

export async function refreshNow(grant) {
  // As a caller does whose token got a 401: of the generation shown, so that two clicks are one refresh.
  await ask("POST", grantPath(grant.grant_id, "/refresh"), {
    headers: { "If-Match": `"${grant.generation}"`, Prefer: "return=minimal" },
  });
  return `${grant.grant_id} has a new token.`;
}

export async function tryAgain(grant) {
  const told = await ask("POST", grantPath(grant.grant_id, "/retry"));
  return told.state === "leased" ? `${grant.grant_id} is being refreshed right now.` : `${grant.grant_id}: one more request goes out.`;
}

export async function retryProvider(provider) {
  const told = await ask("POST", `v1/providers/${encodeURIComponent(provider.provider)}/retry`);
  return `${provider.provider} is asked again; parked grants taken up: ${told.grants_taken_up}.`;
}

/** Ask first; null when the person would rather not. */
export function logOut(grant) {
  const dialog = $("logout");
  $("logout-grant").textContent = grant.grant_id;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  }).then(async (sure) => {
    if (!sure) return null;
    const told = await ask("DELETE", grantPath(grant.grant_id));
    return `${grant.grant_id}: ${told.detail}.`;
  });
}

/** Begin a login, open it in a new tab, and watch it until it ends or the dialog is closed. */
export async function logIn(grantId, provider, changed) {
  const started = await ask("POST", grantPath(grantId, "/login"), { body: { provider } });
  const dialog = $("login"), link = $("login-link"), said = $("login-said");
  $("login-grant").textContent = grantId;
  $("login-provider").textContent = provider;
  link.href = started.login_url;
  said.textContent = "Waiting for the login…";
  said.dataset.level = "wait";
  dialog.showModal();
  link.focus();
  link.click();
  watch(grantId, started.ticket, dialog, said, changed);
}

async function watch(grantId, ticket, dialog, said, changed) {
  const mine = (dialog.dataset.ticket = ticket);
  while (dialog.open && dialog.dataset.ticket === mine) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    let flow;
    try {
      flow = await ask("GET", grantPath(grantId, `/login/${encodeURIComponent(ticket)}`));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 0 || error.status === 503) continue;
      flow = { status: "failed", error_description: error.message };
    }
    if (dialog.dataset.ticket !== mine) return;
    if (flow.status === "completed") {
      said.textContent = `Logged in: ${grantId} is kept alive from now on.`;
      said.dataset.level = "good";
      changed();
      return;
    }
    // A failed login's link can be opened again, so the watch goes on.
    said.dataset.level = flow.status === "failed" ? "bad" : "wait";
    const words = flow.status === "failed" ? `Not logged in: ${flow.error_description}` : "Waiting for the login…";
    if (said.textContent !== words) said.textContent = words;
  }
}
