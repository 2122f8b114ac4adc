export { QualityIndicator, QualityIndicator as default } from "../../../src/analyzer.js";
