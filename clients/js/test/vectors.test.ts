import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { Envelope } from "../src/protocol.js";
import { conversation, initial, receive, said, type State } from "../src/state.js";

interface Case {
  name: string;
  before: { last_seq: number; sent: { message_id: string; text: string }[] };
  frames: string[];
  after: { last_seq: number; messages: object[]; streaming: string[]; must_send: object[] };
}

const folder = new URL("../../../docs/vectors/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".json"));
const cases = files.flatMap((name) => JSON.parse(readFileSync(new URL(name, folder), "utf8")).cases as Case[]);

test.each(cases.map((one) => [one.name, one] as const))("as in docs/vectors: %s", (_, { before, frames, after }) => {
  let state: State = { ...initial("this"), lastSeq: before.last_seq };
  for (const { message_id, text } of before.sent) state = said(state, message_id, "main", text);
  const mustSend = new Set<string>(); // who has asked and has no answer yet does not ask again
  for (const frame of frames) {
    expect(frame.slice(0, 2)).toBe("42");
    const [next, wish] = receive(state, JSON.parse(frame.slice(2))[1] as Envelope);
    state = next;
    if (wish === "resume") mustSend.add(JSON.stringify({ type: "resume", payload: { last_seq: state.lastSeq } }));
    if (wish === "history") mustSend.add(JSON.stringify({ type: "history", payload: {} }));
  }
  const shown = conversation(state, "main").messages;
  expect({
    last_seq: state.lastSeq,
    messages: shown.filter((one) => one.state !== "streaming").map(({ id, role, text, seq }) => ({ message_id: id, role, text, seq })),
    streaming: shown.filter((one) => one.state === "streaming").map((one) => one.text),
    must_send: [...mustSend].map((one) => JSON.parse(one)),
  }).toEqual(after);
});
