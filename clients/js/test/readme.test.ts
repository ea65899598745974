import { readFileSync, writeFileSync, rmSync } from "node:fs";
import { expect, inject, test } from "vitest";
import { mint } from "./service.js";

test("the example of the README runs as it stands", async () => {
  const service = inject("service");
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  expect(example.trim().split("\n").length).toBeLessThanOrEqual(10);
  const token = mint(service, `readme-${Date.now()}`);
  const path = new URL("./readme.example.ts", import.meta.url);
  writeFileSync(
    path,
    `export default async (console: { log: (line: string) => void }, fetch: (path: string) => Promise<Response>) => {\n` +
      example.replace(/import (.*) from "@twin-sio\/client";/, 'const $1 = await import("../src/index.js");').replace("https://chat.example.com", service.url) +
      `\nreturn twin; };\n`,
  );
  try {
    const { default: run } = await import(path.pathname);
    const lines: string[] = [];
    const twin = await run({ log: (line: string) => lines.push(line) }, async () => new Response(token));
    await expect.poll(() => lines.at(-1)).toMatch(/^You said: Hello.*heard it/);
    twin.close();
  } finally {
    rmSync(path);
  }
});
