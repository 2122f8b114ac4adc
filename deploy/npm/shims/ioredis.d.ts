export default class Redis {
  constructor(...ignored: unknown[]);
  get(key: string): Promise<string | null>;
  setex(key: string, seconds: number, value: string): Promise<"OK">;
  keys(pattern: string): Promise<string[]>;
}
