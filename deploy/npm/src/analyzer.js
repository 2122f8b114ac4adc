"use client";
// Components that analyze images with a smartserve server, and show what their metadata says.
// All values come from strangers' files: they are text nodes, never HTML.

import { Fragment, createElement as h, useCallback, useContext, useEffect, useId, useMemo, useRef, useState } from "react";
import { Base } from "./base.js";
import { SUPPORTED_IMAGE_EXTENSIONS, SUPPORTED_IMAGE_MIMES, UNSUPPORTED_FORMAT } from "./formats.js";
import { WAITING, connectionText, follow, newSession, stagesOf } from "./metadata-progress.js";
import {
  answerOf, copyText, evidenceOf, filterGroups, groupsOf, notesOf, qualityOf, sectionsOf, textOf, verdictOf,
} from "./metadata-view.js";
import { STYLE } from "./style.js";
import { analyze, extract } from "./upload.js";

export { SmartserveProvider } from "./base.js";
export { SUPPORTED_IMAGE_EXTENSIONS, SUPPORTED_IMAGE_MIMES, UNSUPPORTED_FORMAT } from "./formats.js";
export { AnalysisError } from "./upload.js";

const LONG = 600;
const classes = (...names) => names.filter(Boolean).join(" ");

// The root of each component. React puts one copy of the style sheet into the page's head.
function Analyzer({ as = "div", className, children, ...rest }) {
  const style = h("style", { href: "smartserve-analyzer", precedence: "default" }, STYLE);
  return h(Fragment, null, style, h(as, { className: classes("smartserve-analyzer", className), ...rest }, children));
}

// State of one upload at a time: a second one cancels the first.
function useUpload(send, { base, token } = {}) {
  const home = useContext(Base);
  const [state, setState] = useState({ isAnalyzing: false, result: null, error: null });
  const running = useRef(null);
  // With an effect that runs twice in development, the next upload makes a new controller.
  useEffect(() => () => running.current?.abort(), []);
  const start = useCallback(
    async (file, options) => {
      running.current?.abort(new DOMException("Another image was selected.", "AbortError"));
      const controller = new AbortController();
      running.current = controller;
      const change = (next) => running.current === controller && setState((old) => ({ ...old, ...next }));
      change({ isAnalyzing: true, error: null });
      try {
        const result = await send(file, { base: base ?? home, token, signal: controller.signal, ...options });
        // The upload may have been cancelled after its answer arrived.
        controller.signal.throwIfAborted();
        change({ isAnalyzing: false, result });
        return result;
      } catch (error) {
        if (!controller.signal.aborted) change({ isAnalyzing: false, error: error.message });
        throw error;
      }
    },
    [send, base, home, token],
  );
  const clear = useCallback(() => {
    running.current?.abort();
    running.current = null;
    setState({ isAnalyzing: false, result: null, error: null });
  }, []);
  return { start, clear, ...state };
}

/** Analyzes one image at a time. On failure, `error` is set and the error is thrown again. */
export function useImageAnalyzer(options) {
  const { start, clear, isAnalyzing, result, error } = useUpload(analyze, options);
  const [sessionId, setSessionId] = useState(null);
  const analyzeImage = useCallback(
    (file) => {
      const session = newSession();
      setSessionId(session);
      return start(file, { sessionId: session });
    },
    [start],
  );
  return { analyzeImage, isAnalyzing, result, error, clear, sessionId };
}

/** A field for one file: drop it, or select it with mouse or keyboard. */
export function DropzoneUpload({ onFileSelect, isAnalyzing = false, className }) {
  const id = useId();
  const [over, setOver] = useState(false);
  const take = (files) => files?.length && onFileSelect?.(files[0]);
  const drag = (on) => (event) => (event.preventDefault(), setOver(on));
  return h(
    Analyzer,
    { className },
    h(
      "div",
      {
        className: classes("smartserve-drop", over && "smartserve-over"),
        "aria-busy": isAnalyzing,
        onDragOver: drag(true),
        onDragLeave: drag(false),
        onDrop: (event) => (drag(false)(event), take(event.dataTransfer.files)),
      },
      h("input", {
        id,
        type: "file",
        className: "smartserve-hidden",
        accept: ["image/*", ...SUPPORTED_IMAGE_EXTENSIONS].join(),
        "aria-describedby": `${id}-about`,
        // Cleared, so that the same file can be selected again.
        onChange: ({ target }) => (take([...target.files]), (target.value = "")),
      }),
      h("span", null, "Drop an image here, or ", h("label", { htmlFor: id }, "select a file")),
      h("p", { id: `${id}-about` }, "JPEG, PNG, HEIC, WebP, AVIF, TIFF, GIF, RAW and more"),
      h("p", { role: "status" }, isAnalyzing ? "Analyzing…" : ""),
    ),
  );
}

function Copy({ text, label, children = "Copy" }) {
  const [said, setSaid] = useState("");
  const copy = async () => setSaid((await copyText(text())) ? "Copied" : "Not copied: this browser does not allow it here.");
  return h(
    Fragment,
    null,
    h("button", { type: "button", onClick: copy, "aria-label": label }, children),
    h("span", { role: "status", className: "smartserve-note" }, said),
  );
}

function Value({ name, text }) {
  const [open, setOpen] = useState(false);
  if (text.length <= LONG) return text;
  const action = open ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`;
  return h(
    Fragment,
    null,
    open ? text : `${text.slice(0, LONG)}…`,
    h("button", { type: "button", "aria-expanded": open, "aria-label": `${action} of ${name}`, onClick: () => setOpen(!open) }, action),
  );
}

const Rows = ({ rows }) =>
  h(
    "dl",
    { className: "smartserve-rows" },
    rows.map(([name, text], at) => h(Fragment, { key: at }, h("dt", null, name), h("dd", null, h(Value, { name, text })))),
  );

const rowsText = (rows) => rows.map(([name, text]) => `${name}: ${text}`).join("\n");

// Content that is made when it is opened: a photograph can have 10,000 tags.
function Details({ title, children }) {
  const [open, setOpen] = useState(false);
  return h("details", { onToggle: ({ currentTarget }) => setOpen(currentTarget.open) }, h("summary", null, title), open && children());
}

function AllFields({ metadata }) {
  const id = useId();
  const [wanted, setWanted] = useState("");
  const groups = useMemo(() => groupsOf(metadata), [metadata]);
  const { shown, total, more } = filterGroups(groups, wanted);
  const fields = () =>
    h(
      Fragment,
      null,
      h("p", { className: "smartserve-field" },
        h("label", { htmlFor: id }, "Filter by name or value"),
        h("input", { id, type: "search", value: wanted, autoComplete: "off", onChange: ({ target }) => setWanted(target.value) }),
      ),
      h("p", { role: "status", className: "smartserve-note" }, wanted && `${total} found${more ? `; the first ${total - more} are shown` : ""}`),
      shown.map(({ name, rows }) =>
        wanted
          ? h(Fragment, { key: name }, h("h4", null, name), h(Rows, { rows }))
          : h(Details, { key: name, title: `${name} (${rows.length})` }, () => h(Rows, { rows })),
      ),
    );
  const all = groups.reduce((sum, { rows }) => sum + rows.length, 0);
  return h(Details, { title: `All fields (${all})` }, fields);
}

const List = ({ items }) =>
  items.length > 0 && h("ul", { className: "smartserve-list" }, items.map((one, at) => h("li", { key: at }, h("bdi", null, one))));

/** Shows what is known of an image: basic data, AI data with its evidence, camera, all fields. */
export function MetadataDisplay({ data, filename, filesize, onClear, className }) {
  const { metadata, quality, insights } = answerOf(data);
  const name = filename ?? data?.filename ?? "";
  const size = filesize ?? data?.filesize;
  if (!metadata) return h(Analyzer, { className }, h("p", { className: "smartserve-fault" }, "The answer has no metadata."));
  const verdict = verdictOf(metadata);
  const evidence = evidenceOf(metadata);
  const panel = { className: "smartserve-panel" };
  return h(
    Analyzer,
    { as: "section", className, "aria-label": `Metadata of ${textOf(name) || "the image"}` },
    h("div", panel,
      h("div", { className: "smartserve-bar" },
        h("h2", null, textOf(name) || "Metadata"),
        h(Copy, { text: () => JSON.stringify(metadata, null, 2) }, "Copy all as JSON"),
        onClear && h("button", { type: "button", onClick: onClear }, "Clear"),
      ),
      h("div", { className: "smartserve-verdict", "data-kind": verdict.kind },
        h("strong", null, verdict.title),
        h("p", { className: "smartserve-note" }, verdict.detail),
      ),
      evidence.length > 0 && h("div", null,
        h("h3", null, "Evidence"),
        h(List, { items: evidence.map(({ says, where }) => (where ? `${says} (${where})` : says)) }),
      ),
      h(List, { items: notesOf(metadata) }),
    ),
    sectionsOf(metadata, { filename: name, filesize: size }).map(({ id, title, rows }) =>
      h("div", { key: id, ...panel },
        h("div", { className: "smartserve-bar" }, h("h3", null, title), h(Copy, { text: () => rowsText(rows), label: `Copy ${title}` })),
        h(Rows, { rows }),
      ),
    ),
    quality && h(QualityIndicator, { qualityMetrics: quality, processingInsights: insights }),
    h("div", panel, h(AllFields, { metadata, key: metadata.sha256 })),
  );
}

/** Shows how well a file was read; green from 0.8, yellow from 0.6, red below. */
export function QualityIndicator({ qualityMetrics, processingInsights, className }) {
  const { scores, deductions, facts, note, recommendations } = qualityOf(qualityMetrics, processingInsights);
  const list = (title, items) => items.length > 0 && h("div", null, h("h4", null, title), h(List, { items }));
  return h(
    Analyzer,
    { className },
    h("div", { className: "smartserve-panel" },
      h("h3", null, "Quality of the extraction"),
      note && h("p", null, note),
      h("div", { className: "smartserve-scores" },
        scores.map(({ name, score, tone, text }) =>
          h("div", { key: name, className: "smartserve-score", "data-tone": tone },
            h("span", { className: "smartserve-note" }, name),
            h("strong", null, text),
            score !== null && h("span", { className: "smartserve-track", "aria-hidden": true }, h("i", { style: { width: `${score * 100}%` } })),
          ),
        ),
      ),
      list("Deductions from the confidence", deductions),
      list("Recommendations", recommendations),
      h(Rows, { rows: facts }),
    ),
  );
}

/** Shows the progress of the extraction with this session id: over a WebSocket, otherwise by polling. */
export function ProgressTracker({ sessionId, base, className, onComplete }) {
  const home = useContext(Base);
  const [state, setState] = useState(WAITING);
  const completed = useRef(onComplete);
  completed.current = onComplete;
  useEffect(() => {
    if (!sessionId) return undefined;
    const stop = new AbortController();
    setState(WAITING);
    follow(sessionId, { base: base ?? home, onChange: setState, signal: stop.signal }).then(
      (last) => !stop.signal.aborted && last.status === "complete" && completed.current?.(last),
    );
    return () => stop.abort();
  }, [sessionId, base, home]);
  if (!sessionId) return null;
  const stages = stagesOf(state);
  const current = stages.find((one) => one.state === "current");
  return h(
    Analyzer,
    { className },
    h("div", { className: "smartserve-panel" },
      h("progress", { max: 100, value: state.percentage, "aria-label": "Progress of the extraction" }),
      // The stages change several times a second: only the text below is announced.
      h("ol", { className: "smartserve-stages" },
        stages.map(({ name, state: at }) => h("li", { key: name, "data-state": at, "aria-current": at === "current" ? "step" : undefined }, name)),
      ),
      h("p", { role: "status", className: state.status === "failed" ? "smartserve-fault" : "smartserve-note" },
        [connectionText(state), current?.name].filter(Boolean).join(": ")),
      state.quality && h(QualityIndicator, { qualityMetrics: state.quality }),
    ),
  );
}

function isSupported({ name = "", type = "" }) {
  const extension = /\.[^.]+$/.exec(name.toLowerCase())?.[0];
  return SUPPORTED_IMAGE_EXTENSIONS.includes(extension) || SUPPORTED_IMAGE_MIMES.includes(type);
}

/** Uploads a file of a supported format, and shows its progress. The server checks the content. */
export function SimpleUpload({ onFileSelect, onResult, onError, base, token, className }) {
  const { start, isAnalyzing, error } = useUpload(extract, { base, token });
  const [refused, setRefused] = useState("");
  const [sessionId, setSessionId] = useState();
  const select = async (file) => {
    if (!isSupported(file)) return setRefused(UNSUPPORTED_FORMAT);
    setRefused("");
    onFileSelect?.(file);
    const session = newSession();
    setSessionId(session);
    try {
      const result = await start(file, { sessionId: session });
      onResult?.(result);
    } catch (fault) {
      if (fault.name !== "AbortError") onError?.(fault);
    }
  };
  const fault = refused || error;
  return h(
    Analyzer,
    { className },
    h(DropzoneUpload, { onFileSelect: select, isAnalyzing }),
    fault && h("p", { role: "alert", className: "smartserve-fault" }, fault),
    sessionId && !fault && h(ProgressTracker, { sessionId, base }),
  );
}

/** Field, error and display of one image at a time. */
export function ImageAnalyzer({ base, token, className }) {
  const { analyzeImage, isAnalyzing, result, error, clear, sessionId } = useImageAnalyzer({ base, token });
  return h(
    Analyzer,
    { className },
    h("h1", null, "AI Image Analyzer"),
    h(DropzoneUpload, { onFileSelect: (file) => analyzeImage(file).catch(() => {}), isAnalyzing }),
    error && h("p", { role: "alert", className: "smartserve-fault" }, error),
    isAnalyzing && h(ProgressTracker, { sessionId, base }),
    result && !error && !isAnalyzing && h(MetadataDisplay, { data: result, onClear: clear }),
  );
}
