import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { expect, test } from "vitest";
import { connect, conversation, MemoryOutbox } from "../src/index.js";

const root = new URL("../../../", import.meta.url);

test("this client keeps every rule of `twin-sio conformance`", async () => {
  const python = new URL(".venv/bin/python", root).pathname;
  const kit = spawn(python, ["-m", "twin_sio.cli", "conformance", "--json", "--limit", "8"], { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => kit.once("exit", resolve));
  const broken: string[] = [];
  let end: { passed: number } | undefined;
  let stop = (): void => {};
  for await (const text of createInterface({ input: kit.stdout })) {
    const line = JSON.parse(text);
    if (line.type === "listening") stop = reporting(line.url, line.token);
    if (line.type === "rule" && !line.passed) broken.push(`${line.rule}: ${line.observed}`);
    if (line.type === "end") end = line;
  }
  stop();
  expect(broken).toEqual([]);
  expect(end?.passed).toBeGreaterThan(15);
  expect(await ended).toBe(0);
}, 90_000);

/** A client as the kit wants it: it says something, and answers in `report` with what it shows in `main`. */
function reporting(url: string, token: string): () => void {
  const client = connect({ url, getToken: () => token, sessionId: "conformance-js", outbox: new MemoryOutbox() });
  client.send("hello");
  let runs = 0;
  client.offerTools([{ name: "count", description: "How often it was run.", parameters: {}, needs_approval: false }], () => (runs += 1));
  const answered = new Set<string>();
  client.subscribe(() => {
    for (const asked of conversation(client.state, "report").messages) {
      if (asked.sessionId === client.state.sessionId || answered.has(asked.id)) continue;
      answered.add(asked.id);
      const shown = conversation(client.state, "main").messages.map((one) => one.text);
      client.send(JSON.stringify(shown), { conversationId: "report" });
    }
  });
  return () => client.close();
}
