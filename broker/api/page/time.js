// Times as people read them. All arguments are epoch seconds.

import { now } from "./api.js";

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** "3 d 4 h", "12 min 05 s", "8 s": the two largest units. */
export function span(seconds) {
  const left = Math.max(0, Math.floor(seconds));
  const first = Math.max(0, UNITS.findIndex(([, size]) => left >= size));
  if (left < 60) return `${left} s`;
  const [unit, size] = UNITS[first];
  const [lesser, smaller] = UNITS[first + 1];
  const rest = Math.floor((left % size) / smaller);
  const shown = lesser === "s" ? String(rest).padStart(2, "0") : rest;
  return rest ? `${Math.floor(left / size)} ${unit} ${shown} ${lesser}` : `${Math.floor(left / size)} ${unit}`;
}

export const until = (at) => (at > now() ? `in ${span(at - now())}` : "now");
/** The past does not need seconds: "29 min ago". */
export const since = (at) => {
  const gone = now() - at;
  return gone < 1 ? "just now" : `${span(gone < 3600 && gone >= 60 ? gone - (gone % 60) : gone)} ago`;
};

/** What the broker needs for times in its sentences: the minutes of this computer's zone east of UTC. */
export const zone = () => `utc_offset=${-new Date().getTimezoneOffset()}`;

// Local time in the form of ISO 8601 ("2026-11-25 06:58:38"): short, and the same everywhere.
const exact = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
export const moment = (at) => exact.format(new Date(at * 1000));
