export { DropzoneUpload } from "../../../../src/analyzer.js";
