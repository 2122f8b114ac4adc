import type { PictureOperations, Signer } from "./urls.js";

export interface SmartserveOptions {
  baseURL?: string;
  modifiers?: Partial<PictureOperations>;
}

type Provider = () => {
  getImage(src: string, options: SmartserveOptions): { url: string };
};

export function signedProvider(sign: Signer): Provider;
declare const provider: Provider;
export default provider;
