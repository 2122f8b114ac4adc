// DOM and fetch utilities.

export const byId = (id) => document.getElementById(id);

// Create an element. Names with a dash, "role" and "for" are set as attributes, all others as
// properties. Strings become text nodes, never HTML.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function option(value, text) {
  return make("option", { value, textContent: text });
}

// Fill an element with radio buttons that are styled as one segmented control.
export function segments(holder, name, choices, chosen) {
  holder.replaceChildren(
    ...choices.map(([value, text]) =>
      make(
        "label",
        {},
        make("input", { type: "radio", name, value, checked: value === chosen }),
        make("span", { textContent: text }),
      ),
    ),
  );
}

export const chosen = (holder) => holder.querySelector("input:checked")?.value;

// Announce a text to screen readers.
export function announce(text) {
  byId("announcement").textContent = text;
}

// Return the JSON at a URL; throw an Error with the problem's detail.
export async function json(url, options) {
  const response = await fetch(url, { cache: "no-cache", ...options });
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(value.detail ?? `${response.status} ${response.statusText}`);
  return value;
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
