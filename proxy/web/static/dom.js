// Small helpers around the document; nothing here knows what is shown.

export const byId = (id) => document.getElementById(id);

// An element with properties, attributes (their names have a dash, or are role, for and the like)
// and children; text stays text.
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

// A row of radio buttons that looks like one control.
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

// What screen readers should say now.
export function say(text) {
  byId("said").textContent = text;
}

export async function json(url, options) {
  const answer = await fetch(url, { cache: "no-cache", ...options });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail ?? `${answer.status} ${answer.statusText}`);
  return told;
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
