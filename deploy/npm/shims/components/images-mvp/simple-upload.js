export { SimpleUpload, SimpleUpload as default } from "../../../src/analyzer.js";
