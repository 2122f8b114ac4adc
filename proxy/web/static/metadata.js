// The field for reading metadata: sends a file, follows its progress, and shows the answer.

import { announce, byId, json, takeFiles } from "./dom.js";
import { connectionText, follow, newSession } from "./metadata-progress.js";
import { display, showStages } from "./metadata-display.js";
import { bytes } from "./format.js";

// Without a token a server may still analyze small files, without quality metrics.
const EXTRACT = { path: "/api/images_mvp/extract", field: "file" };
const ANALYZE = { path: "/api/standalone-metadata/analyze", field: "image" };

let running = null;
let authorize = async () => ({});

function showProgress(state) {
  byId("metadata-bar").value = state.percentage;
  showStages(byId("metadata-stages"), state);
  byId("metadata-state").textContent = connectionText(state);
}

function showFault(text) {
  byId("metadata-error").textContent = text;
  byId("metadata-error").hidden = !text;
}

async function send(file, sessionId, signal) {
  const given = await authorize();
  const { path, field } = given.Authorization ? EXTRACT : ANALYZE;
  const form = new FormData();
  form.append("sessionId", sessionId);
  form.append(field, file, file.name);
  return json(path, { method: "POST", headers: given, body: form, signal, cache: "no-store" });
}

function clear() {
  byId("metadata-result").replaceChildren();
  byId("metadata-file").focus();
}

// A second file cancels the first.
async function read(file) {
  running?.abort();
  const own = (running = new AbortController());
  const progress = byId("metadata-progress");
  const session = newSession();
  showFault("");
  byId("metadata-result").replaceChildren();
  progress.hidden = false;
  const show = (state) => own === running && !own.signal.aborted && showProgress(state);
  byId("metadata-sent").textContent = `${file.name}, ${bytes(file.size)}`;
  const followed = new AbortController();
  own.signal.addEventListener("abort", () => followed.abort());
  follow(session, { onChange: show, signal: followed.signal }).catch(() => {});
  try {
    const found = await send(file, session, own.signal);
    if (own !== running) return;
    byId("metadata-result").replaceChildren(...display(found, clear));
    announce(`The metadata of ${file.name} is shown`);
    byId("metadata-name").focus();
  } catch (error) {
    if (own === running && !own.signal.aborted) showFault(error.message);
  } finally {
    followed.abort();
    if (own === running) progress.hidden = true;
  }
}

// Offer the field if the server extracts metadata; `authorization` returns the headers of a request.
export function start(paths, authorization) {
  if (!(EXTRACT.path in paths)) return;
  authorize = authorization;
  byId("metadata").hidden = false;
  takeFiles(byId("metadata-drop"), byId("metadata-file"), ([file]) => file && read(file));
}
