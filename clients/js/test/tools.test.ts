// @vitest-environment jsdom
import { expect, test } from "vitest";
import type { Envelope, ToolResult } from "../src/protocol.js";
import { MemoryOutbox, type Entry } from "../src/index.js";
import { Sending } from "../src/sending.js";
import { initial, type State } from "../src/state.js";
import { HostTools } from "../src/tools.js";
import { event } from "./events.js";

const tool = (name: string) => ({ name, description: `It does ${name}`, parameters: {}, needs_approval: false });
const call = (id: string, name = "open") => ({ call_id: id, name, arguments: { board: 7 }, timeout_ms: 1_000 });

/** The tools of an app, and the results that were sent. */
function offered(sessionId = `s-${Math.random()}`) {
  const sent: { result: ToolResult; id: string }[] = [];
  const tools = new HostTools({ send: (result, id) => sent.push({ result, id }), has: () => false, sessionId });
  return { tools, sent };
}

test("a call is run once, and where it comes again its result is sent again under the same id", async () => {
  const { tools, sent } = offered();
  let runs = 0;
  tools.add([tool("open")], async ({ arguments: given }) => ({ opened: given["board"], runs: (runs += 1) }));
  tools.take(call("c-1"));
  tools.take(call("c-1"));
  await expect.poll(() => sent.length).toBe(1);
  tools.take(call("c-1"));
  expect(sent).toHaveLength(2);
  expect(sent[1]).toEqual(sent[0]);
  expect(sent[0]?.result).toEqual({ call_id: "c-1", output: { opened: 7, runs: 1 } });
});

test("what a tool throws, and what cannot be sent, is told as text", async () => {
  const { tools, sent } = offered();
  tools.add([tool("open")], () => Promise.reject(new Error("The board is gone.")));
  tools.add([tool("dump")], () => "x".repeat(70_000));
  for (const one of [call("c-1"), call("c-2", "dump"), call("c-3", "unheard")]) tools.take(one);
  await expect.poll(() => sent.length).toBe(3);
  const told = Object.fromEntries(sent.map(({ result }) => [result.call_id, result.error]));
  expect(told).toMatchObject({ "c-1": "The board is gone.", "c-3": "This app offers no such tool." });
  expect(told["c-2"]).toContain("too long");
});

test("a call that a reload has cut off is not run again, and nobody waits for it", () => {
  const first = offered("tab-1");
  first.tools.add([tool("open")], () => new Promise(() => undefined));
  first.tools.take(call("c-1"));
  const reloaded = offered("tab-1");
  let runs = 0;
  reloaded.tools.add([tool("open")], () => (runs += 1));
  reloaded.tools.giveUp();
  expect(reloaded.sent.map(({ result }) => [result.call_id, result.error])).toEqual([["c-1", expect.stringContaining("not known")]]);
  reloaded.tools.take(call("c-1"));
  expect(runs).toBe(0);
  const another = offered("tab-2");
  another.tools.giveUp();
  expect(another.sent).toEqual([]);
});

test("all that is offered is offered together, and what is taken back is gone", () => {
  const { tools } = offered();
  tools.add([tool("open")], () => 1);
  const back = tools.add([tool("close"), tool("open")], () => 2);
  expect(tools.offered.map(({ name }) => name)).toEqual(["open", "close"]);
  back();
  expect(tools.offered.map(({ name }) => name)).toEqual(["open"]);
});

test("what an answer waits for passes by a message that is held up", async () => {
  const stored: string[] = [];
  let isBusy = true;
  let state: State = initial("s");
  const line = {
    get state() {
      return state;
    },
    isOpen: true,
    isNotTaken: false,
    show: (next: State) => void (state = next),
    send: async (entry: Entry): Promise<Envelope> => {
      if (entry.name === "user_message" && isBusy) return event("error", { code: "busy", message: "", retryable: true, retry_after_ms: 20 });
      if (entry.name === "tool_result") isBusy = false; // with it the answer ends that was waited for
      stored.push(entry.name);
      return event("message_received", { message_id: entry.id, status: "accepted" });
    },
  };
  const sending = new Sending(line, Promise.resolve(new MemoryOutbox()));
  const { receipt } = sending.add("user_message", { text: "next" });
  await new Promise((done) => setTimeout(done, 5));
  sending.add("tool_result", { call_id: "c-1" });
  await receipt;
  expect(stored).toEqual(["tool_result", "user_message"]);
});
