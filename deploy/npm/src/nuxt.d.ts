import type { PictureOperations } from "./urls.js";

export interface SmartserveOptions {
  baseURL?: string;
  modifiers?: Partial<PictureOperations>;
}

declare const provider: () => {
  getImage(src: string, options: SmartserveOptions): { url: string };
};
export default provider;
