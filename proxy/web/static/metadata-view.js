// Turns an answer of the metadata routes into what a display shows: names and text. The page and the
// components of `smartserve-image` render it. Values come from strangers' files: render them as text
// nodes only, never as HTML.

const AI_FIELDS = [
  ["prompt", "Prompt"],
  ["negativePrompt", "Negative prompt"],
  ["checkpoint", "Checkpoint"],
  ["model", "Model"],
  ["vae", "VAE"],
  ["loras", "LoRAs"],
  ["steps", "Steps"],
  ["cfgScale", "CFG scale"],
  ["sampler", "Sampler"],
  ["scheduler", "Scheduler"],
  ["seed", "Seed"],
  ["clipSkip", "Clip skip"],
  ["mjVersion", "Midjourney version"],
  ["mjAspectRatio", "Aspect ratio"],
  ["mjChaos", "Chaos"],
  ["mjQuality", "Quality"],
  ["mjStylize", "Stylize"],
  ["mjStyle", "Style"],
  ["mjRaw", "Raw"],
  ["mjWeirdness", "Weirdness"],
  ["mjExperimental", "Experimental"],
  ["mjJobId", "Job id"],
  ["mjStyleReferences", "Style references"],
  ["mjStyleWeight", "Style weight"],
  ["mjImageWeight", "Image weight"],
  ["mjCharacterReference", "Character reference"],
  ["mjCharacterWeight", "Character weight"],
  ["mjOmniReference", "Omni reference"],
  ["mjOmniWeight", "Omni weight"],
  ["mjAuthor", "Author"],
  ["version", "Version"],
  ["digital_source_type", "Digital source type"],
];
const EXIF_FIELDS = [
  ["camera", "Camera"],
  ["make", "Make"],
  ["model", "Model"],
  ["software", "Software"],
  ["taken_at", "Taken at"],
  ["exposure", "Exposure"],
  ["aperture", "Aperture"],
  ["iso", "ISO"],
  ["focal_length", "Focal length"],
  ["orientation", "Orientation"],
];
const CREDENTIAL_FIELDS = [
  ["state", "State"],
  ["trust", "Trust"],
  ["claim_generator", "Claim generator"],
  ["generators", "Generators"],
  ["steps", "Actions"],
  ["codes", "Validation codes"],
  ["remote_url", "Address of the manifest (never fetched)"],
  ["signed_at", "Signed at"],
];

const CERTAIN = 0.9;
const MAX_FOUND = 200;

/** Per cent and name of each stage of an extraction. */
export const STAGES = [
  [10, "received", "Received"],
  [30, "walked", "Structure read"],
  [50, "engine", "Tags read"],
  [80, "credentials", "AI and Content Credentials"],
  [100, "complete", "Complete"],
];

// Characters that change the direction of text let "gpj.exe" look like "exe.jpg": they are made visible.
const visible = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (one) => `[U+${one.charCodeAt(0).toString(16).toUpperCase()}]`);

/** Return any value of the metadata object as text; "" if it is unknown. */
export function textOf(value) {
  if (value === null || value === undefined || value === "") return "";
  if (Array.isArray(value)) return value.map(textOf).join(value.some((one) => typeof one === "object") ? "\n" : ", ");
  if (typeof value !== "object") return visible(String(value));
  if (Object.keys(value).join() === "binary") return `binary data, ${value.binary} bytes`;
  return visible(JSON.stringify(value));
}

const loraText = ({ name, weight }) => `${textOf(name)}${textOf(weight) && ` (${textOf(weight)})`}`;

function rowsOf(object, fields) {
  return fields.map(([key, name]) => [name, textOf(object?.[key])]).filter(([, text]) => text !== "");
}

function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  const unit = count < 999_500 ? ["kB", 1e3] : count < 999_500_000 ? ["MB", 1e6] : ["GB", 1e9];
  return `${(count / unit[1]).toPrecision(3)} ${unit[0]} (${count.toLocaleString("en")} bytes)`;
}

function imageRows(metadata, filename, filesize) {
  const { width, height, density } = metadata;
  const type = [metadata.format?.toUpperCase(), metadata.mime_type].filter(Boolean).join(", ");
  const transparency = metadata.has_alpha === null || metadata.has_alpha === undefined ? "" : metadata.has_alpha ? "yes" : "no";
  return [
    ["File name", textOf(filename)],
    ["File size", Number.isFinite(filesize) ? bytes(filesize) : ""],
    ["Format", metadata.extension_matches === false ? `${type}; the extension or the declared type says otherwise` : type],
    ["Dimensions", width && height ? `${width} × ${height}` : ""],
    ["Orientation", textOf(metadata.orientation)],
    ["Bit depth", textOf(metadata.bit_depth)],
    ["Channels", textOf(metadata.channels)],
    ["Color space", textOf(metadata.color_space)],
    ["Transparency", transparency],
    ["Pages", metadata.pages > 1 ? textOf(metadata.pages) : ""],
    ["Density", textOf(density)],
    ["SHA-256", textOf(metadata.sha256)],
  ].filter(([, text]) => text !== "");
}

// An issuer is a fact only if a trusted authority certified it: anyone can make a certificate of any name.
function credentialRows(credentials) {
  const issuer = textOf(credentials.issuer);
  const shown = credentials.trust === "trusted" ? issuer : `“${issuer}”: a claim of the file, not verified`;
  const steps = (credentials.actions ?? []).map(({ action, software_agent: agent, digital_source_type: type }) =>
    [action, agent, textOf(type).split("/").at(-1)].map(textOf).filter(Boolean).join(", "),
  );
  const rows = rowsOf({ ...credentials, steps: steps.join("\n") }, CREDENTIAL_FIELDS);
  return [...(issuer ? [["Issuer", shown]] : []), ...rows];
}

/** Return the metadata object, metrics and insights of an answer of any metadata route. */
export function answerOf(data) {
  const own = data && typeof data === "object" && "ai_generation" in data ? data : null;
  return {
    metadata: data?.complete_metadata ?? data?.metadata ?? own,
    quality: data?.quality_metrics ?? null,
    insights: data?.processing_insights ?? null,
  };
}

/** Return `{kind, title, detail}`. An image is never called "not AI": re-encoding removes the evidence. */
export function verdictOf(metadata) {
  const ai = metadata?.ai_generation;
  const strength = typeof ai?.confidence === "number" && ai.confidence > 0 ? `Strength of the best evidence: ${ai.confidence} of 1. This is not a probability.` : "";
  if (ai?.involvement === "composite") {
    return { kind: "composite", title: "Parts are declared as AI-generated", detail: strength };
  }
  if (ai?.source && ai.source !== "unknown") {
    const name = textOf(ai.generator) || (ai.source === "other" ? "" : textOf(ai.source));
    // Weaker than a trusted signature or the generator's own data, it is only a claim of the file.
    const what = ai.confidence >= CERTAIN ? "AI-generated" : "Declared as AI-generated";
    return { kind: "generated", title: name ? `${what}: ${name}` : what, detail: strength };
  }
  const detail = "No evidence of an AI generator was found. That does not mean that the image is not generated: editing and uploading remove such evidence.";
  return { kind: "unknown", title: "AI generation: unknown", detail };
}

/** Return `[{says, where}]`: what the verdict is based on. */
export function evidenceOf(metadata) {
  const found = metadata?.ai_generation?.evidence ?? [];
  return found.map(({ says, where, key }) => ({ says: textOf(says), where: [where, key].map(textOf).filter(Boolean).join(", ") }));
}

/** Return `[{id, title, rows: [[name, text]]}]` of what is known; sections without rows are omitted. */
export function sectionsOf(metadata, { filename, filesize } = {}) {
  const ai = metadata.ai_generation ?? {};
  const named = { ...ai, loras: ai.loras?.map(loraText) };
  const raw = Object.entries(ai.rawParameters ?? {}).map(([key, value]) => [key, textOf(value)]);
  const sections = [
    { id: "image", title: "Image", rows: imageRows(metadata, filename, filesize) },
    { id: "ai", title: "AI generation", rows: [...rowsOf(named, AI_FIELDS), ...raw.filter(([, text]) => text !== "")] },
    { id: "credentials", title: "Content Credentials", rows: metadata.c2pa ? credentialRows(metadata.c2pa) : [] },
    { id: "exif", title: "Camera", rows: rowsOf(metadata.exif, EXIF_FIELDS) },
    {
      id: "gps",
      title: "Position",
      rows: rowsOf(metadata.gps, [["latitude", "Latitude"], ["longitude", "Longitude"], ["altitude", "Altitude"], ["taken_at", "Taken at"]]),
    },
    {
      id: "text",
      title: "Text in the file",
      rows: (metadata.text ?? []).map(({ keyword, where, text }) => [textOf(keyword) || textOf(where), textOf(text)]),
    },
  ];
  return sections.filter(({ rows }) => rows.length);
}

const rowsOfAll = (object) => Object.entries(object ?? {}).map(([name, value]) => [name, textOf(value)]);

/** Return `[{name, rows: [[tag, text]]}]` of all tags, by group; the last one says what is unknown, and why. */
export function groupsOf(metadata) {
  const groups = Object.entries(metadata.groups ?? {}).map(([name, tags]) => ({ name, rows: rowsOfAll(tags) }));
  const unknown = rowsOfAll(metadata.reasons);
  return unknown.length ? [...groups, { name: "Unknown values", rows: unknown }] : groups;
}

/** Return sentences about what is missing or doubtful. */
export function notesOf(metadata) {
  const { withheld } = metadata;
  const hidden = [...(withheld?.groups ?? []), ...(withheld?.fields ?? [])].map(textOf).join(", ");
  return [
    ...(withheld ? [`Not included in this tier: ${hidden}. Needed: ${textOf(withheld.needs)}.`] : []),
    ...(metadata.warnings ?? []).map((one) => `Warning: ${textOf(one)}`),
    ...((metadata.truncated ?? []).length ? [`Too long, and cut: ${metadata.truncated.map(textOf).join(", ")}`] : []),
  ];
}

/** Return green from 0.8, yellow from 0.6, red below, and none for a value that was not measured. */
export function toneOf(score) {
  if (typeof score !== "number") return "none";
  if (score >= 0.8) return "green";
  return score >= 0.6 ? "yellow" : "red";
}

const count = (value, unit) => (typeof value === "number" ? `${value.toLocaleString("en")}${unit}` : "");

/** Return how well a file was read: scores, deductions, facts, recommendations. */
export function qualityOf(quality, insights) {
  const scores = [
    ["Confidence", quality?.confidence_score],
    ["Completeness", quality?.extraction_completeness],
    ["Efficiency", quality?.processing_efficiency],
  ].map(([name, score]) => ({
    name,
    score: typeof score === "number" ? score : null,
    tone: toneOf(score),
    text: typeof score === "number" ? `${Math.round(score * 100)} %` : "not measured",
  }));
  const facts = [
    ["Format support", textOf(quality?.format_support_level)],
    ["Fields", count(insights?.total_fields_extracted, "")],
    ["Time", count(insights?.processing_time_ms, " ms")],
    ["Queued", count(insights?.queued_ms, " ms")],
    ["Peak memory", count(insights?.memory_usage_mb, " MB")],
    ["Engine version", textOf(insights?.engine_version)],
  ].filter(([, text]) => text !== "");
  const fallback = insights?.fallback_extraction === true;
  return {
    scores,
    deductions: (quality?.confidence_basis ?? []).map(({ deduction, reason }) => `−${deduction}: ${textOf(reason)}`),
    facts,
    note: fallback ? "The fallback engine read this file: only basic metadata is shown." : "",
    recommendations: (quality?.recommended_actions ?? []).map(textOf),
  };
}

/** Return the groups whose names or values contain a text, at most 200 rows of them. */
export function filterGroups(groups, wanted) {
  const text = wanted.trim().toLowerCase();
  if (!text) return { shown: groups, total: 0, more: 0 };
  const contains = (...parts) => parts.some((one) => one.toLowerCase().includes(text));
  const found = groups.map(({ name, rows }) => ({ name, rows: rows.filter(([tag, value]) => contains(name, tag, value)) }));
  const total = found.reduce((sum, { rows }) => sum + rows.length, 0);
  let free = MAX_FOUND;
  const shown = [];
  for (const { name, rows } of found) {
    const some = rows.slice(0, free);
    free -= some.length;
    if (some.length) shown.push({ name, rows: some });
  }
  return { shown, total, more: Math.max(0, total - MAX_FOUND) };
}

/** Copy a text to the clipboard; return false where the browser does not allow it. */
export async function copyText(text) {
  // Pages without HTTPS have no clipboard.
  if (!navigator.clipboard) return false;
  return navigator.clipboard.writeText(text).then(() => true, () => false);
}
