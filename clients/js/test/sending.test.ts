/** What the sender shows of its own, beside what other devices have done meanwhile. */
import { expect, test } from "vitest";
import { MemoryOutbox, type Entry, type State } from "../src/index.js";
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

/** A device that is online, over a server that answers as the test says; what was sent, in its order. */
function online(answer: (entry: Entry, times: number) => object | null) {
  const sent: string[] = [];
  const line = {
    state: initial("s"),
    isOpen: true,
    isNotTaken: false,
    show: (state: State) => void (line.state = state),
    send: async (entry: Entry) => {
      const refusal = answer(entry, sent.filter((id) => id === entry.id).length);
      sent.push(entry.id);
      if (refusal) return event("error", { message: "", retryable: true, ...refusal }, {});
      const receipt = event("message_received", { message_id: entry.id, status: "accepted" }, { in_response_to: entry.id, conversation_id: entry.conversationId });
      line.state = receive(line.state, receipt)[0];
      return receipt;
    },
  };
  const sending = new Sending(line, Promise.resolve(new MemoryOutbox()));
  const say = (id: string, where = "main") => sending.add("user_message", { text: id }, where, id).receipt;
  const shown = (id: string, where = "main") => conversation(line.state, where).messages.find((one) => one.id === id)!;
  return { sending, say, shown, sent };
}

test("what a busy conversation refuses holds up neither ratings nor other conversations, and the order stays", async () => {
  let isBusy = true;
  const busy = { code: "busy", retry_after_ms: 100 };
  const { sending, say, shown, sent } = online(({ name, conversationId }) => (isBusy && name !== "feedback" && conversationId === "main" ? busy : null));
  const held = [say("one"), say("two"), sending.add("regenerate", { message_id: "one" }, "main", "anew").receipt];
  await Promise.all([say("there", "other"), sending.add("feedback", { message_id: "t", rating: "up" }, "main", "rating").receipt]);
  expect(shown("one")).toMatchObject({ state: "sending", error: { code: "busy" }, heldUntil: expect.stringContaining("T") });
  expect(shown("two")).toMatchObject({ state: "sending", error: { code: "busy" } });
  isBusy = false;
  await Promise.all(held);
  const last = (id: string) => sent.lastIndexOf(id);
  expect([last("one") < last("two"), last("two") < last("anew")]).toEqual([true, true]);
  expect(sent.filter((id) => id === "two" || id === "anew")).toEqual(["two", "anew"]);
  expect(shown("two")).toMatchObject({ state: "stored", error: null, heldUntil: null });
});

test("where the messages of the day are used up, what is said waits until the time that is told, and shows it", async () => {
  const until = Date.now() + 7_200_000;
  const { sending, say, shown, sent } = online(({ name }) => (name === "user_message" ? { code: "rate_limited", retry_after_ms: 7_200_000 } : null));
  void say("one");
  await expect.poll(() => shown("one").heldUntil).not.toBeNull();
  void say("two", "other");
  await sending.add("profile_correct", { trait_id: "t", action: "confirm" }, "main", "correction").receipt;
  expect(Math.abs(Date.parse(shown("two", "other").heldUntil!) - until)).toBeLessThan(5_000);
  expect(shown("two", "other").error).toMatchObject({ code: "rate_limited" });
  expect(sent).toEqual(["one", "correction"]);
});

test("a rating that is refused for a while holds up the ratings behind it, and no more", async () => {
  const { sending, say, sent } = online(({ name }, times) => (name === "feedback" && times === 0 ? { code: "rate_limited", retry_after_ms: 150 } : null));
  const rate = (id: string) => sending.add("feedback", { message_id: "t", rating: "up" }, "main", id).receipt;
  const rated = [rate("up"), rate("down")];
  await say("hello");
  await Promise.all(rated);
  expect(sent).toEqual(["up", "hello", "up", "down", "down"]);
});
