import type { DefineComponent } from "vue";

declare const ImageAnalyzer: DefineComponent<{ base?: string; token?: string }>;
export default ImageAnalyzer;
