export { MetadataDisplay } from "../../../../src/analyzer.js";
