// The style sheet of the analyzer. It has no quotes and no angle brackets, which a renderer on the
// server would escape.
export const STYLE = `
.smartserve-analyzer {
  --ss-raised: #ffffff; --ss-sunk: #f3f1ed; --ss-ink: #22262a; --ss-soft: #575e65; --ss-line: #d9d5ce; --ss-accent: #1d615b;
  --ss-green: #1d6b3a; --ss-yellow: #7d5300; --ss-red: #a3261c; --ss-bad-wash: #fbe6e3; --ss-wash: #e3efed; --ss-warm-wash: #fbeedb;
  color-scheme: light dark; color: var(--ss-ink); background: var(--ss-raised); line-height: 1.5;
  display: grid; gap: 1rem; min-width: 0; text-align: start;
}
@media (prefers-color-scheme: dark) {
  .smartserve-analyzer {
    --ss-raised: #1b1e21; --ss-sunk: #111315; --ss-ink: #e9e7e3; --ss-soft: #a6adb3; --ss-line: #3a3f44; --ss-accent: #7fcac1;
    --ss-green: #7ed6a0; --ss-yellow: #efbc72; --ss-red: #ff9c90; --ss-bad-wash: #3a1f1c; --ss-wash: #1b302e; --ss-warm-wash: #33281a;
  }
}
.smartserve-analyzer, .smartserve-analyzer * { box-sizing: border-box; }
.smartserve-analyzer :is(h1, h2, h3, h4, p, dl, dd, ul, ol) { margin: 0; padding: 0; }
.smartserve-analyzer :is(ul, ol) { list-style: none; }
.smartserve-analyzer h1 { font-size: 1.6rem; line-height: 1.2; }
.smartserve-analyzer h2 { font-size: 1.2rem; overflow-wrap: anywhere; unicode-bidi: isolate; }
.smartserve-analyzer h3 { font-size: 1rem; }
.smartserve-analyzer :is(button, input[type=search]) {
  font: inherit; font-size: .875rem; color: inherit; background: var(--ss-raised); border: 1px solid var(--ss-soft); border-radius: 8px;
  min-height: 2.25rem; padding: .25rem .75rem;
}
.smartserve-analyzer button { cursor: pointer; }
.smartserve-analyzer :focus-visible { outline: 2px solid var(--ss-accent); outline-offset: 2px; }
.smartserve-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.smartserve-drop {
  position: relative; display: grid; gap: .25rem; justify-items: center; text-align: center; padding: 1.75rem 1rem;
  border: 2px dashed var(--ss-soft); border-radius: 12px; transition: background-color .15s;
}
.smartserve-drop.smartserve-over { background: var(--ss-wash); border-color: var(--ss-accent); }
.smartserve-drop:focus-within { outline: 2px solid var(--ss-accent); outline-offset: 2px; }
.smartserve-drop label { color: var(--ss-accent); text-decoration: underline; text-underline-offset: .2em; cursor: pointer; }
.smartserve-drop p { color: var(--ss-soft); font-size: .875rem; }
.smartserve-fault { background: var(--ss-bad-wash); color: var(--ss-red); border-radius: 8px; padding: .6rem .9rem; overflow-wrap: anywhere; }
.smartserve-panel { display: grid; gap: .9rem; border: 1px solid var(--ss-line); border-radius: 12px; padding: 1rem; min-width: 0; }
.smartserve-bar { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.smartserve-bar :is(h2, h3) { flex: 1 1 10rem; min-width: 0; }
.smartserve-verdict { background: var(--ss-sunk); border-radius: 8px; padding: .75rem .9rem; border-inline-start: 4px solid var(--ss-soft); }
.smartserve-verdict strong { display: block; overflow-wrap: anywhere; }
.smartserve-verdict[data-kind=generated], .smartserve-verdict[data-kind=composite] { border-color: var(--ss-yellow); background: var(--ss-warm-wash); }
.smartserve-note, .smartserve-rows dt { color: var(--ss-soft); font-size: .875rem; }
.smartserve-verdict .smartserve-note { color: inherit; }
.smartserve-list { display: grid; gap: .25rem; font-size: .875rem; overflow-wrap: anywhere; }
.smartserve-list bdi { unicode-bidi: isolate; }
.smartserve-rows { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr); gap: .3rem 1rem; }
.smartserve-rows :is(dt, dd) { min-width: 0; overflow-wrap: anywhere; }
.smartserve-rows dt { max-width: 16rem; }
.smartserve-rows dd, .smartserve-text { white-space: pre-wrap; unicode-bidi: isolate; overflow-wrap: anywhere; }
.smartserve-rows dd button { display: block; margin-top: .3rem; }
.smartserve-bar [role=status]:empty { margin-inline-start: -.5rem; }
.smartserve-analyzer details { min-width: 0; }
.smartserve-analyzer details details { border-top: 1px solid var(--ss-line); margin-inline-start: .75rem; padding: .3rem 0; }
.smartserve-analyzer summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
.smartserve-field { display: grid; gap: .25rem; margin: .5rem 0; font-size: .875rem; }
.smartserve-track { height: 10px; border-radius: 5px; background: var(--ss-sunk); border: 1px solid var(--ss-line); overflow: hidden; }
.smartserve-track i { display: block; height: 100%; background: var(--ss-accent); transition: width .3s; }
.smartserve-stages { display: flex; flex-wrap: wrap; gap: .15rem 1rem; font-size: .875rem; color: var(--ss-soft); }
.smartserve-stages [data-state=done], .smartserve-stages [data-state=current] { color: var(--ss-ink); }
.smartserve-stages [data-state=current] { font-weight: 600; }
.smartserve-scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; }
.smartserve-score { display: grid; gap: .25rem; align-content: start; }
.smartserve-score strong { font-size: 1.1rem; }
.smartserve-score[data-tone=green] { color: var(--ss-green); }
.smartserve-score[data-tone=yellow] { color: var(--ss-yellow); }
.smartserve-score[data-tone=red] { color: var(--ss-red); }
.smartserve-score[data-tone=none] { color: var(--ss-soft); }
.smartserve-score .smartserve-track i { background: currentColor; }
@media (max-width: 30rem) {
  .smartserve-rows { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .smartserve-rows dd { margin-bottom: .4rem; }
}
@media (prefers-reduced-motion: reduce) {
  .smartserve-analyzer, .smartserve-analyzer * { transition: none; animation: none; }
}
@media (forced-colors: active) {
  .smartserve-track i { background: Highlight; forced-color-adjust: none; }
}
`;
