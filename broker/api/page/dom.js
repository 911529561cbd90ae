// Build and change elements. Text is always set as text: nothing here parses HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element with properties (`class`, `dataset`, listeners by `onclick`, …) and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name.startsWith("aria-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Return *text* as nodes, with what stands in backticks as code. */
export const coded = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));

/** Set text only where it differs, so that a screen reader does not read it again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Make *nodes* the children of *parent*, in this order; nodes in the right place are not touched and keep the focus. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const node of nodes) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

let hiding;
/** Show the result of an action for some seconds. */
export function notify(text, bad = false) {
  const message = $("said");
  message.textContent = text;
  message.dataset.bad = bad ? "yes" : "no";
  clearTimeout(hiding);
  hiding = setTimeout(() => { message.textContent = ""; }, bad ? 15000 : 6000);
}
