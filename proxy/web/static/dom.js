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

// Pass on the files that are dropped on a form, or selected in its field.
export function takeFiles(form, field, take) {
  const over = (on) => (event) => {
    event.preventDefault();
    form.classList.toggle("over", on);
  };
  form.ondragover = over(true);
  form.ondragleave = over(false);
  form.ondrop = (event) => {
    over(false)(event);
    take([...event.dataTransfer.files]);
  };
  // Beside the form the browser would open the file instead of the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  form.onsubmit = (event) => event.preventDefault();
  field.onchange = () => {
    take([...field.files]);
    // Selecting the same file again is a change then.
    field.value = "";
  };
}

// Announce a text to screen readers.
export function announce(text) {
  byId("announcement").textContent = text;
}

// Fetch a URL; throw an Error with what happened, why, and what to do. 304 is no error.
export async function request(url, options) {
  const response = await fetch(url, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not respond. Check that it is running, then retry.", { cause: error });
  });
  if (response.ok || response.status === 304) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = problem.detail ?? `${response.status} ${response.statusText}`;
  throw Object.assign(new Error(detail), { status: response.status });
}

export async function json(url, options) {
  return (await request(url, { cache: "no-cache", ...options })).json();
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
