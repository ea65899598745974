import { readUIMessageStream, type UIMessage } from "ai";
import { expect, test } from "vitest";
import { uiMessages } from "../src/ai-sdk.js";
import { answerStream } from "../src/ai-stream.js";
import { conversation, decided, receive, said, type State } from "../src/state.js";
import type { Envelope, Step } from "../src/protocol.js";
import { TwinError } from "../src/wire.js";
import { after, answer, chunk, event, ready, user } from "./events.js";

const step = (id: string, state: Step["state"], summary?: string, kind: Step["kind"] = "tool") =>
  event("twin_activity", { step_id: id, kind, name: "search", title: "Search", state, ...(summary ? { summary } : {}) }, { in_response_to: "u-1" });
const reasoning = (text: string, index: number) => event("twin_reasoning_chunk", { text, generation_id: "g", chunk_index: index }, { in_response_to: "u-1" });
const asked = { approval_id: "a-1", call_id: "c-1", tool: "send_mail", title: "Send the mail", arguments: { to: "bob" }, expires_at: "2026-01-02T00:00:00.000Z" };
const request = (seq: number) => event("approval_requested", asked, { seq, in_response_to: "u-1" });

/** A client that hears what the test says, and the answer as the SDK puts it together. */
function listening(...envelopes: Envelope[]) {
  let [state] = after(ready(0), user("?", 1), ...envelopes);
  const listeners = new Set<() => void>();
  const client = {
    get state() {
      return state;
    },
    subscribe: (listener: () => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const show = (next: State): void => {
    state = next;
    for (const listener of [...listeners]) listener();
  };
  const hear = async (...more: Envelope[]): Promise<void> => {
    for (const envelope of more) show(receive(state, envelope)[0]);
    await new Promise((done) => setTimeout(done, 5));
  };
  const read = async (message?: UIMessage) => {
    const shown: UIMessage[] = [];
    const stream = answerStream({ client, conversationId: "main", about: "u-1" });
    const end = (async () => {
      for await (const one of readUIMessageStream({ stream: stream as ReadableStream<never>, terminateOnError: true, ...(message ? { message } : {}) })) shown.push(structuredClone(one));
    })().then(
      () => null,
      (error: unknown) => error,
    );
    await new Promise((done) => setTimeout(done, 5));
    return { shown, end };
  };
  return { client, hear, show, read };
}

const kinds = (message: UIMessage | undefined) =>
  message?.parts.filter((one) => one.type !== "step-start").map((one) => [one.type, "text" in one ? one.text : "state" in one ? one.state : ""]);

test("an answer streams as text, and ends as it is stored", async () => {
  const { client, hear, read } = listening(chunk("He", 0));
  const { shown, end } = await read();
  await hear(chunk("llo", 1), answer("Hello", 2, "u-1"));
  expect(await end).toBeNull();
  expect(kinds(shown.at(-1))).toEqual([["text", "Hello"]]);
  expect(shown.some((one) => kinds(one)?.[0]?.[1] === "He")).toBe(true);
  expect(shown.at(-1)).toMatchObject({ id: "answer-u-1", role: "assistant", metadata: { messageId: "t-2", state: "complete", seq: 2 } });
  expect(uiMessages(conversation(client.state, "main")).map((one) => [one.id, one.role])).toEqual([["u-1", "user"], ["answer-u-1", "assistant"]]);
});

test("another generation takes the place of what was streamed", async () => {
  const { hear, read } = listening(chunk("old words", 0, "g1"));
  const { shown, end } = await read();
  await hear(chunk("new", 0, "g2"), answer("new!", 2, "u-1", "g2"));
  expect(await end).toBeNull();
  expect(kinds(shown.at(-1))).toEqual([["text", "new!"]]);
});

test("what was thought and done comes before what is said, also where it comes later", async () => {
  const { hear, read } = listening(chunk("I look", 0));
  const { shown, end } = await read();
  await hear(reasoning("Hm", 0), step("s-1", "started"), step("n-1", "done", undefined, "node"));
  expect(kinds(shown.at(-1))).toEqual([["reasoning", "Hm"], ["dynamic-tool", "input-available"], ["data-step", ""], ["text", "I look"]]);
  await hear(step("s-1", "failed", "nothing there"));
  expect(shown.at(-1)?.parts.find((one) => one.type === "dynamic-tool")).toMatchObject({ state: "output-error", errorText: "nothing there" });
  const whole = answer("I look: nothing", 2, "u-1");
  whole.payload.reasoning = "Hm";
  whole.payload.steps = [{ step_id: "s-1", kind: "tool", name: "search", title: "Search", state: "failed", summary: "nothing there" }];
  await hear(whole);
  expect(await end).toBeNull();
  expect(kinds(shown.at(-1))).toEqual([["reasoning", "Hm"], ["dynamic-tool", "output-error"], ["text", "I look: nothing"]]);
});

test("where the user has to decide the stream ends, and goes on in the same message once they have", async () => {
  const { client, hear, show, read } = listening(chunk("May I?", 0), step("c-1", "waiting"));
  const first = await read();
  await hear(request(2));
  expect(await first.end).toBeNull();
  const waiting = first.shown.at(-1);
  const part = waiting?.parts.find((one) => one.type === "dynamic-tool");
  expect(part).toMatchObject({ toolCallId: "c-1", state: "approval-requested", approval: { id: "a-1" }, input: { to: "bob" } });
  expect(uiMessages(conversation(client.state, "main")).at(-1)?.metadata).toMatchObject({ state: "waiting" });
  show(decided(client.state, { approval_id: "a-1", decision: "approve" }));
  const second = await read(waiting);
  await hear(event("approval_resolved", { approval_id: "a-1", decision: "approve" }, { seq: 3, in_response_to: "u-1" }), step("c-1", "started"));
  expect(second.shown.at(-1)?.parts.find((one) => one.type === "dynamic-tool")).toMatchObject({ state: "approval-responded", approval: { approved: true } });
  await hear(step("c-1", "done", "sent"));
  expect(second.shown.at(-1)?.parts.find((one) => one.type === "dynamic-tool")).toMatchObject({ state: "output-available", output: "sent" });
  const whole = answer("May I? Sent.", 4, "u-1", "g2");
  whole.payload.steps = [{ step_id: "c-1", kind: "tool", name: "send_mail", title: "Send the mail", state: "done", summary: "sent" }];
  await hear(whole);
  expect(await second.end).toBeNull();
  expect(second.shown.at(-1)?.id).toBe(waiting?.id);
  expect(kinds(second.shown.at(-1))).toEqual([["dynamic-tool", "output-available"], ["text", "May I? Sent."]]);
});

test("what was refused is shown as denied", async () => {
  const { hear, read } = listening(step("c-1", "waiting"), request(2));
  await hear(event("approval_resolved", { approval_id: "a-1", decision: "reject", comment: "no" }, { seq: 3 }), step("c-1", "failed", "not allowed"));
  const { shown } = await read();
  expect(shown.at(-1)?.parts.find((one) => one.type === "dynamic-tool")).toMatchObject({ state: "output-denied", approval: { approved: false, reason: "no" } });
});

test("an answer that fails, and a message that is refused, say why by code", async () => {
  const failing = listening(chunk("Well", 0));
  const { end } = await failing.read();
  const failed = answer("Well", 2, "u-1");
  Object.assign(failed.payload, { status: "failed", error: "model_timeout" });
  await failing.hear(failed);
  const error = await end;
  expect(error).toBeInstanceOf(TwinError);
  expect((error as TwinError).code).toBe("model_timeout");
});

test("a message that another answer took in has no answer of its own", async () => {
  const { hear, read } = listening();
  const taken = answer("both", 3, "u-0");
  taken.payload.steered_by = ["u-1"];
  const { shown, end } = await read();
  await hear(event("read_receipt", { message_id: "u-1" }, { seq: 2 }), taken);
  expect(await end).toBeNull();
  expect(shown).toEqual([]);
});

test("what is not stored yet is shown as it is", () => {
  const [state] = after(ready(0), user("a", 1));
  expect(uiMessages(conversation(said(state, "mine", "main", "b"), "main")).map((one) => one.metadata?.state)).toEqual(["stored", "sending"]);
});
