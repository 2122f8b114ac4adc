export { extractMetadataFromImage } from "../../../../src/node.js";
