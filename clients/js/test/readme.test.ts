import { execFileSync } from "node:child_process";
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

test("the components of the README compile as they stand", () => {
  const here = new URL("./", import.meta.url);
  const examples = [...readFileSync(new URL("../README.md", here), "utf8").matchAll(/```tsx\n([\s\S]*?)```/g)].map(([, code]) => code ?? "");
  expect(examples.length).toBeGreaterThan(1);
  const sources = { "@twin-sio/client/ai-sdk/react": "ai-sdk-react", "@twin-sio/client/ai-sdk": "ai-sdk", "@twin-sio/client/react": "react", "@twin-sio/client": "index" };
  const files = examples.map((code, index) => {
    const name = new URL(`./readme.example-${index}.tsx`, here).pathname;
    const local = Object.entries(sources).reduce((text, [from, to]) => text.replaceAll(`"${from}"`, `"../src/${to}.js"`), code);
    const given = /function Chat\(\{ client \}\)/.test(local) ? local.replace("({ client })", "({ client }: { client: TwinClient })") : `declare const client: TwinClient;\n${local}`;
    writeFileSync(name, `import type { TwinClient } from "../src/index.js";\n${given}\nvoid Chat;\n`);
    return name;
  });
  const config = new URL("./readme.tsconfig.json", here).pathname;
  writeFileSync(config, JSON.stringify({ extends: "../tsconfig.json", compilerOptions: { noEmit: true }, include: [], files }));
  try {
    execFileSync("npx", ["tsc", "--project", config], { cwd: new URL("..", here).pathname, encoding: "utf8", stdio: "pipe" });
  } catch (error) {
    expect.fail((error as { stdout: string }).stdout);
  } finally {
    for (const file of [...files, config]) rmSync(file);
  }
}, 60_000);
