// The list of grants, the most urgent first: filters, pages, and one line for all that are well.

import { ask, now, Refused } from "./api.js";
import { $, arrange, el, setText } from "./dom.js";
import { GrantLine } from "./grant.js";
import { until } from "./time.js";
import { isHealthy, isServed } from "./words.js";

const PAGE = 100, MAX_REQUESTS = 30, NUMBERS = 7;
const nonEmpty = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
export const filters = () => nonEmpty(Object.fromEntries(new FormData($("filters"))));

/** Fetch a page of grants from *cursor*. A search skips many grants, so one response may not fill the page. */
async function fetchPage(query, cursor) {
  const grants = [];
  let complete = true;
  for (let sent = 0; sent < MAX_REQUESTS; sent += 1) {
    const parameters = new URLSearchParams({ order: "urgent", ...query, limit: PAGE - grants.length });
    if (cursor) parameters.set("cursor", cursor);
    const body = await ask("GET", `v1/grants?${parameters}`);
    grants.push(...body.grants);
    cursor = body.next;
    complete = body.complete !== false;
    if (!cursor || grants.length >= PAGE) break;
  }
  return { grants, next: cursor, complete };
}

export class GrantList {
  /** *changed* fetches everything again. */
  constructor(changed) {
    this.changed = changed;
    this.lines = new Map();
    this.sum = el("li", { class: "sum" });
    this.reset();
    $("next").addEventListener("click", () => this.turn(this.page + 1));
    $("previous").addEventListener("click", () => this.turn(this.page - 1));
  }

  /** Forget which page is shown. */
  reset() {
    this.cursors = [null];
    this.page = 0;
    this.grants = [];
    this.next = null;
    this.readAt = 0;
  }

  clear() {
    this.reset();
    this.lines.clear();
    $("list").replaceChildren();
  }

  first() {
    this.cursors = [null];
    this.page = 0;
  }

  turn(page) {
    this.page = page;
    return this.changed().then(() => { $("grants").scrollIntoView(); });
  }

  key() {
    return JSON.stringify([filters(), this.cursors[this.page]]);
  }

  /** Fetch the page that is wanted now. If another is wanted meanwhile, another request fetches that one. */
  async fetch() {
    const wanted = this.key(), page = this.page;
    let body;
    try {
      body = await fetchPage(filters(), this.cursors[page]);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 400 && page > 0) this.first(); // the cursor is another broker's
      return error;
    }
    if (wanted !== this.key()) return null;
    ({ grants: this.grants, next: this.next, complete: this.complete } = body);
    this.cursors = [...this.cursors.slice(0, page + 1), ...(body.next ? [body.next] : [])];
    this.readAt = now();
    return null;
  }

  /** Show the page; *trouble* says why it could not be read anew. */
  show(data, trouble) {
    const at = now(), ids = new Set(this.grants.map((grant) => grant.grant_id));
    for (const id of this.lines.keys()) if (!ids.has(id)) this.lines.delete(id);
    const nodes = this.grants.map((grant) => {
      const line = this.lines.get(grant.grant_id);
      if (line) line.show(grant);
      else this.lines.set(grant.grant_id, new GrantLine(grant, this.changed));
      return this.lines.get(grant.grant_id).node;
    });
    const { verdict } = data;
    this.alive = verdict?.alive && !Object.keys(filters()).length ? verdict : null;
    const split = this.grants.findIndex((grant) => isHealthy(grant, at));
    if (split > 0 && this.alive) nodes.splice(split, 0, this.sum);
    // On the first page it is known how many of those that need somebody still have a token.
    this.well = this.alive && this.page === 0 ? this.alive.alive - this.grants.slice(0, split).filter((grant) => isServed(grant, at)).length : null;
    arrange($("list"), nodes);
    this.showTrouble(trouble, data.adminOfAll);
    this.showPager(data);
    this.tickTime();
  }

  showTrouble(trouble, adminOfAll) {
    const none = $("none"), empty = !this.grants.length;
    $("columns").hidden = empty;
    none.hidden = !empty && !trouble && this.complete !== false;
    const since = this.readAt ? " The lines below are what was read last." : "";
    setText(none, trouble ? `The grants cannot be read: ${trouble.replace(/^Redis: /, "Redis ")}.${empty ? " Whether there are any is not known." : since}`
      : this.complete === false ? "The broker is still sorting its grants by urgency: some may be missing here for a moment."
      : Object.keys(filters()).length ? "No grant matches."
      : this.page > 0 ? "This page is empty now."
      : !adminOfAll ? "There is no grant yet that your key may view."
      : "No grants yet. Log in the first one, or import refresh tokens that you have: token-broker import FILE.");
  }

  showPager({ providers, adminOfAll }) {
    const { state, provider, search } = filters(), known = this.cursors.length;
    document.querySelector(".pager").hidden = known === 1;
    $("previous").disabled = this.page === 0;
    $("next").disabled = this.page + 1 >= known;
    const among = (providers ?? []).filter((each) => !provider || each.provider === provider);
    const all = among.reduce((total, { grants }) => total + (state ? grants[state] : grants.due + grants.leased + grants.parked), 0);
    const pages = adminOfAll && !search && providers ? Math.max(known, Math.ceil(all / PAGE)) : null;
    setText($("page-of"), pages ? `page ${this.page + 1} of ${pages.toLocaleString()}` : `page ${this.page + 1}`);
    const from = Math.max(0, Math.min(this.page - 3, known - NUMBERS));
    const numbers = [...new Set([0, ...Array.from({ length: Math.min(NUMBERS, known - from) }, (_, index) => from + index)])];
    const seen = JSON.stringify([numbers, this.page]);
    if (seen === this.numbers) return;
    this.numbers = seen;
    $("numbers").replaceChildren(...numbers.map((page) => el("button", {
      "aria-label": `Page ${page + 1}`, ...(page === this.page ? { "aria-current": "page" } : {}), onclick: () => this.turn(page),
    }, String(page + 1))));
  }

  /** Update what depends on the time; called every second. */
  tickTime() {
    if (this.alive) {
      const { next_end_at: next } = this.alive, who = this.well === null ? "All others are" : this.well.toLocaleString();
      setText(this.sum, `${who} alive${next ? `, the next ends ${until(next)}` : ""}`);
    }
    for (const line of this.lines.values()) line.tickTime();
  }
}
