/** What the sender shows of its own, beside what other devices have done meanwhile. */
import { expect, test } from "vitest";
import { MemoryOutbox } from "../src/index.js";
import type { Envelope } from "../src/protocol.js";
import { Sending, type Line } from "../src/sending.js";
import { conversation, initial, receive } from "../src/state.js";

const event = (type: string, payload: object, metadata: object): Envelope =>
  ({ type, payload, metadata: { timestamp: "2026-11-29T12:00:00.000Z", message_id: "e", ...metadata } }) as Envelope;

const answer = { text: "hi", generation_id: "g", status: "complete", model: "m", used_traits: [] };
const theirs = (seq: number) => event("feedback", { message_id: "t", rating: "down" }, { message_id: "other", seq });

/** A device that is offline, has one answer, and rates it. */
function rating() {
  let state = initial("s");
  state = receive(state, event("session_ready", { user_id: "u", seq: 0, sessions: [], profile_version: 0 }, {}))[0];
  state = receive(state, event("twin_message", answer, { message_id: "t", in_response_to: "u1", seq: 1 }))[0];
  const line = { state, isOpen: false, isNotTaken: false, show: (next: typeof state) => void (line.state = next) } as Line & {
    state: typeof state;
    isOpen: boolean;
  };
  const sending = new Sending(line, Promise.resolve(new MemoryOutbox()));
  const sent = sending.add("feedback", { message_id: "t", rating: "up" }, "main", "mine");
  const shown = () => conversation(line.state, "main").messages[0]?.feedback?.rating;
  return { line, sending, sent, shown };
}

test("a rating that is stored behind another device's counts", async () => {
  const { line, sending, sent, shown } = rating();
  line.state = receive(line.state, theirs(2))[0];
  expect(shown()).toBe("down");
  const receipt = event("message_received", { message_id: "mine", status: "accepted" }, { in_response_to: "mine", seq: 3 });
  line.send = async () => ((line.state = receive(line.state, receipt)[0]), receipt);
  line.isOpen = true;
  await Promise.all([sending.flush(), sent.receipt]);
  expect(shown()).toBe("up");
});

test("the late receipt of a repeat undoes no newer rating", async () => {
  const { line, sending, sent, shown } = rating();
  const mine = event("feedback", { message_id: "t", rating: "up" }, { message_id: "mine", seq: 2 });
  line.state = receive(receive(line.state, mine)[0], theirs(3))[0];
  line.send = async () => event("message_received", { message_id: "mine", status: "duplicate" }, { in_response_to: "mine", seq: 2 });
  line.isOpen = true;
  await Promise.all([sending.flush(), sent.receipt]);
  expect(shown()).toBe("down");
});
