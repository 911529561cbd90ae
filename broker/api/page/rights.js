// What the key of whoever signed in may do. The broker says it with each grant, and refuses the rest in any case.

/** Whether the key has *right* on *grant*, or on any id where it is the session's; an older broker does not say. */
export const may = (grant, right) => grant.rights?.includes(right) ?? true;

/** The sentence about those of *acts*, each {label, right}, that the key may not do to *grant*; "" where it may all. */
export function refusedWords(grant, acts) {
  const refused = acts.filter(({ right }) => !may(grant, right));
  if (!refused.length) return "";
  return `Your key does not allow: ${refused.map(({ label, right }) => `${label} (right \`${right}\`)`).join(", ")}.`;
}

/** Who is signed in, in the header: with a key that changes nothing, that too. */
export function callerWords({ caller, rights }) {
  return rights && !["refresh", "login", "admin"].some((right) => rights.includes(right)) ? `${caller} (view only)` : caller;
}
