export { ProgressTracker, ProgressTracker as default } from "../../../src/analyzer.js";
