// Follows an extraction by its session id: over a WebSocket, and by polling if that is not possible.

import { STAGES } from "./metadata-view.js";

const POLL_MS = 1000;
const SOCKET_MS = 10_000;
// The server keeps the last state for a minute; a client that connects first waits for the upload.
const PATIENCE_MS = 15 * 60_000;

/** Return an id for one extraction. Whoever knows it can follow the progress, so it is random. */
export function newSession() {
  // Not `randomUUID`, which pages without HTTPS do not have.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The state before anything is known. */
export const WAITING = Object.freeze({
  connection: "connecting",
  status: "waiting",
  percentage: 0,
  stage: "",
  remainingMs: null,
  quality: null,
  error: "",
});

/** Return the state after a message of the server; messages of unknown types change nothing. */
export function reduce(state, message) {
  if (message?.type === "progress") {
    const told = message.percentage ?? message.progress;
    // Messages can arrive late after a change to polling: progress never goes back.
    const percentage = typeof told === "number" ? Math.max(state.percentage, Math.min(100, told)) : state.percentage;
    return {
      ...state,
      status: state.status === "waiting" ? "running" : state.status,
      percentage,
      stage: typeof message.stage === "string" ? message.stage : state.stage,
      remainingMs: message.estimated_time_remaining ?? null,
      quality: message.quality_metrics ?? state.quality,
    };
  }
  if (message?.type === "complete") {
    return { ...state, status: "complete", percentage: 100, stage: "complete", remainingMs: null, quality: message.quality_metrics ?? state.quality };
  }
  if (message?.type === "error") {
    return { ...state, status: "failed", remainingMs: null, error: typeof message.error === "string" ? message.error : "The extraction failed." };
  }
  return state;
}

const ended = ({ status }) => status === "complete" || status === "failed";

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

// Resolve when the socket has ended.
function listen(url, { onOpen, onMessage, signal }) {
  return new Promise((resolve) => {
    let socket;
    try {
      socket = new WebSocket(url);
    } catch {
      return resolve();
    }
    // A proxy that does not pass sockets may keep the request open for ever.
    const timer = setTimeout(() => socket.close(), SOCKET_MS);
    const stop = () => socket.close();
    signal.addEventListener("abort", stop, { once: true });
    socket.onopen = () => (clearTimeout(timer), onOpen());
    socket.onmessage = ({ data }) => {
      let message = null;
      try {
        message = JSON.parse(data);
      } catch {
        return;
      }
      if (onMessage(message)) socket.close();
    };
    socket.onclose = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      resolve();
    };
  });
}

/** Call `onChange` with each state until the extraction has ended or `signal` is aborted; return the last. */
export async function follow(session, { base = "", onChange = () => {}, signal = new AbortController().signal } = {}) {
  let state = WAITING;
  const change = (next) => {
    if (signal.aborted || ended(state)) return;
    state = next;
    onChange(state);
  };
  const path = `${base.replace(/\/$/, "")}/api/images_mvp/progress/${encodeURIComponent(session)}`;
  onChange(state);
  if (typeof WebSocket === "function") {
    const url = base ? path : `${location.origin}${path}`;
    await listen(url.replace(/^http/, "ws"), {
      onOpen: () => change({ ...state, connection: "live" }),
      onMessage: (message) => (change(reduce(state, message)), ended(state)),
      signal,
    });
  }
  for (let waited = 0; !ended(state) && !signal.aborted && waited < PATIENCE_MS; waited += POLL_MS) {
    const response = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store", signal }).catch(() => null);
    if (response?.ok) {
      const message = await response.json().catch(() => null);
      change({ ...reduce(state, message), connection: "polling" });
    } else change({ ...state, connection: "lost" });
    if (!ended(state)) await pause(POLL_MS, signal);
  }
  change({ ...state, connection: "closed" });
  return state;
}

/** Return the stages as `[{name, state}]`, where a state is "done", "current" or "later". */
export function stagesOf({ percentage, status }) {
  const current = STAGES.findIndex(([percent]) => percent > percentage);
  return STAGES.map(([percent, , name], at) => ({
    name,
    state: percent <= percentage ? "done" : status === "running" && at === current ? "current" : "later",
  }));
}

/** Return the state of the connection as text. */
export const connectionText = (state) => {
  if (state.status === "complete") return "Complete";
  if (state.status === "failed") return state.error;
  const names = { connecting: "Connecting", live: "Connected", polling: "Connected (polling)", lost: "Connection lost, retrying", closed: "Disconnected" };
  return names[state.connection];
};
