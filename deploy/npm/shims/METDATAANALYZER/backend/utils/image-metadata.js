// The module of this name in the document "Image Metadata Analyzer": extraction by the server.
export { extractMetadataFromImage } from "../../../../src/node.js";
