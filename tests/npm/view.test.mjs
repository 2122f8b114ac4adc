// The view of metadata without a browser: text of any answer, and the states of progress.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WAITING, connectionText, newSession, reduce, stagesOf } from "../../deploy/npm/src/metadata-progress.js";
import { answerOf, filterGroups, groupsOf, notesOf, qualityOf, sectionsOf, textOf, toneOf, verdictOf } from "../../deploy/npm/src/metadata-view.js";

test("all values become text", () => {
  for (const [value, text] of [
    [null, ""], [undefined, ""], ["", ""], [0, "0"], [false, "false"], ["18446744073709551615", "18446744073709551615"],
    [[1, 2], "1, 2"], [[{ a: 1 }, "b"], '{"a":1}\nb'], [{ binary: 12 }, "binary data, 12 bytes"], [{ a: null }, '{"a":null}'],
    ["jpg\u202egnp", "jpg[U+202E]gnp"], [{ "\u2066": 1 }, '{"[U+2066]":1}'],
  ]) assert.equal(textOf(value), text);
});

test("the answers of all routes have the same view", () => {
  const metadata = { ai_generation: { source: "unknown" } };
  for (const data of [metadata, { metadata }, { complete_metadata: metadata, prompt: null }]) {
    assert.equal(answerOf(data).metadata, metadata);
  }
  for (const data of [null, undefined, {}, "text", 7]) assert.equal(answerOf(data).metadata, null);
});

test("an answer without any known value has no sections, and its source is unknown", () => {
  const metadata = { ai_generation: { source: "unknown", loras: [], rawParameters: { workflow: null } }, exif: null, gps: null, groups: {}, c2pa: null };
  assert.deepEqual(sectionsOf(metadata), []);
  assert.deepEqual(notesOf(metadata), []);
  assert.equal(verdictOf(metadata).kind, "unknown");
  assert.equal(verdictOf({}).kind, "unknown");
});

test("scores are green from 0.8, yellow from 0.6, red below", () => {
  const tones = [1, 0.8, 0.79, 0.6, 0.59, 0, null, undefined].map(toneOf);
  assert.deepEqual(tones, ["green", "green", "yellow", "yellow", "red", "red", "none", "none"]);
  assert.deepEqual(qualityOf(null, null).scores.map(({ text }) => text), Array(3).fill("not measured"));
});

test("at most 200 found fields are shown, and their number is right", () => {
  const many = Object.fromEntries(Array.from({ length: 300 }, (_, at) => [`Tag${at}`, at]));
  const groups = groupsOf({ groups: { A: many, B: { Other: "tag" } } });
  const { shown, total, more } = filterGroups(groups, " TAG ");
  assert.deepEqual([total, more, shown.length], [301, 101, 1]);
  assert.equal(filterGroups(groups, "").shown, groups);
});

test("reasons of unknown values are a group, and no note", () => {
  const metadata = { groups: { PNG: { Width: 1 } }, reasons: { gps: "the file has no position" } };
  assert.deepEqual(groupsOf(metadata).at(-1), { name: "Unknown values", rows: [["gps", "the file has no position"]] });
  assert.deepEqual(notesOf(metadata), []);
});

test("progress never goes back, and ends once", () => {
  const messages = [
    { type: "connected" }, { type: "progress", percentage: 50, stage: "engine" }, { type: "progress", progress: 30, stage: "walked" },
    { type: "heartbeat" }, { type: "unknown" }, null, 7,
  ];
  const state = messages.reduce(reduce, WAITING);
  assert.deepEqual([state.percentage, state.status], [50, "running"]);
  assert.deepEqual(stagesOf(state).map((one) => one.state), ["done", "done", "done", "current", "later"]);
  assert.equal(reduce(state, { type: "complete" }).percentage, 100);
  const failed = reduce(state, { type: "error", error: "The file is damaged." });
  assert.equal(connectionText(failed), "The file is damaged.");
  assert.match(newSession(), /^[0-9a-f]{32}$/);
  assert.notEqual(newSession(), newSession());
});
