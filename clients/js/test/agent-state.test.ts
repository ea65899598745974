import { expect, test } from "vitest";
import { answerTo } from "../src/index.js";
import type { ApprovalRequestedPayload, Envelope, Step } from "../src/protocol.js";
import { conversation, decided, decisionRefused, decisionStored, receive, type State } from "../src/state.js";
import { after, answer, chunk, event, ready, shown, user } from "./events.js";

const step = (id: string, state: Step["state"], to = "u-1", summary?: string) =>
  event("twin_activity", { step_id: id, kind: "tool", name: "search", title: "Search", state, ...(summary ? { summary } : {}) }, { in_response_to: to });
const reasoning = (text: string, index: number, generation = "g", to = "u-1") =>
  event("twin_reasoning_chunk", { text, generation_id: generation, chunk_index: index }, { in_response_to: to });
const asked: ApprovalRequestedPayload = {
  approval_id: "a-1",
  call_id: "call-1",
  tool: "send_mail",
  title: "Send the mail",
  arguments: { to: "bob" },
  expires_at: "2026-01-02T00:00:00.000Z",
};
const request = (seq: number, to = "u-1", id = "a-1") => event("approval_requested", { ...asked, approval_id: id }, { seq, in_response_to: to });
const resolve = (seq: number, decision: "approve" | "reject" | "edit" | "expired" | "cancelled", more = {}) =>
  event("approval_resolved", { approval_id: "a-1", decision, ...more }, { seq, in_response_to: "u-1" });
const main = (state: State) => conversation(state, "main");
const decisions = (state: State) => main(state).approvals.map((one) => [one.id, one.decision]);

test("an event with a seq of a type that is not known moves the count, and a hole before it asks to resume", () => {
  const unknown = (seq: number) => event("of_later" as "user_message", { text: "?" }, { seq });
  const [state, wishes] = after(ready(0), user("a", 1), unknown(2), user("b", 3), unknown(5));
  expect(shown(state)).toEqual(["a", "b"]);
  expect(state.lastSeq).toBe(3);
  expect(wishes.at(-1)).toBe("resume");
});

test("steps of an answer that is made are shown as they are now, and are those of the answer once it is there", () => {
  const [live] = after(ready(0), user("?", 1), step("s-1", "started"), step("s-2", "started"), step("s-1", "done", "u-1", "3 found"));
  expect(main(live).activity["u-1"]?.map((one) => [one.step_id, one.state])).toEqual([["s-1", "done"], ["s-2", "started"]]);
  const whole = answer("!", 2, "u-1");
  whole.payload.steps = [{ step_id: "s-1", kind: "tool", name: "search", title: "Search", state: "done" }];
  const [state] = receive(live, whole);
  expect(main(state).activity).toEqual({});
  expect(main(state).messages.at(-1)?.steps.map((one) => one.step_id)).toEqual(["s-1"]);
});

test("reasoning is joined within its generation, begins anew with another, and is no part of the answer's text", () => {
  const [live] = after(ready(0), user("?", 1), reasoning("Let", 0), reasoning(" me", 1), reasoning(" me", 1), chunk("Yes", 0));
  expect(main(live).reasoning["u-1"]?.text).toBe("Let me");
  expect(shown(live)).toEqual(["?", "Yes"]);
  const [again] = receive(live, reasoning("Anew", 0, "g2"));
  expect(main(again).reasoning["u-1"]?.text).toBe("Anew");
  const whole = answer("Yes.", 2, "u-1", "g2");
  whole.payload.reasoning = "Anew I think";
  const [state] = receive(again, whole);
  expect(main(state).reasoning).toEqual({});
  expect(main(state).messages.at(-1)?.reasoning).toBe("Anew I think");
  expect(receive(state, reasoning("late", 9, "g2"))[0]).toBe(state);
});

test("who comes into the middle of the reasoning sees the rest of it", () => {
  const [state] = after(ready(1), reasoning("of it", 7));
  expect(main(state).reasoning["u-1"]?.text).toBe("of it");
});

test("an approval waits, is decided once, and goes with the answer that waited", () => {
  const [waiting] = after(ready(0), user("?", 1), chunk("I ask", 0), request(2), request(2));
  expect(decisions(waiting)).toEqual([["a-1", null]]);
  expect(shown(waiting)).toEqual(["?", "I ask"]);
  const [state] = receive(waiting, resolve(3, "edit", { arguments: { to: "eve" }, comment: "not bob" }));
  expect(main(state).approvals[0]).toMatchObject({ decision: "edit", arguments: { to: "eve" }, comment: "not bob", inResponseTo: "u-1" });
  expect(main(receive(state, answer("done", 4, "u-1"))[0]).approvals).toEqual([]);
});

test("an approval of a later answer to the same message outlives the page that shows the first answer", () => {
  const [state] = after(ready(0), user("?", 1), answer("first", 2, "u-1"), request(3));
  const line = { message_id: "t-2", role: "twin" as const, text: "first", timestamp: "2026-01-01T00:00:00.000Z", seq: 2, in_response_to: "u-1" };
  const [paged] = receive(state, event("history", { messages: [line], has_more: false, conversation_id: "main" }));
  expect(decisions(paged)).toEqual([["a-1", null]]);
});

test("a device without a history learns from its first page what answers wait for", () => {
  const line = { message_id: "u-1", role: "user" as const, text: "?", timestamp: "2026-01-01T00:00:00.000Z", seq: 1 };
  const page = { messages: [line], has_more: false, conversation_id: "main", approvals: [{ ...asked, in_response_to: "u-1", seq: 2 }] };
  const [state] = after(ready(2), event("history", page), event("history", page));
  expect(decisions(state)).toEqual([["a-1", null]]);
  expect(decisions(receive(state, resolve(3, "expired"))[0])).toEqual([["a-1", "expired"]]);
});

test("a page of the history shows how its answers were made", () => {
  const line = {
    message_id: "t-3",
    role: "twin" as const,
    text: "done",
    timestamp: "2026-01-01T00:00:00.000Z",
    seq: 3,
    in_response_to: "u-1",
    steps: [{ step_id: "s-1", kind: "node" as const, name: "plan", title: "Plan", state: "done" as const }],
    reasoning: "Hm.",
    steered_by: ["u-2"],
    stopped_by: "u-4",
  };
  const [state] = after(ready(3), event("history", { messages: [line], has_more: false, conversation_id: "main" }));
  expect(main(state).messages[0]).toMatchObject({ reasoning: "Hm.", steeredBy: ["u-2"], stoppedBy: "u-4", steps: [{ step_id: "s-1" }] });
});

test("one's own decision shows at once, stays where it is stored, and goes where the server refuses it", () => {
  const [waiting] = after(ready(0), user("?", 1), request(2));
  const mine = { approval_id: "a-1", decision: "reject" as const, comment: "no" };
  const sending = decided(waiting, mine);
  expect(main(sending).approvals[0]).toMatchObject({ decision: null, sending: "reject" });
  const stored = decisionStored(sending, mine);
  expect(main(stored).approvals[0]).toMatchObject({ decision: "reject", sending: null, comment: "no" });
  expect(main(receive(stored, resolve(3, "reject", { comment: "no" }))[0]).approvals[0]).toMatchObject({ decision: "reject" });
  const busy = { code: "invalid_message", message: "", retryable: false };
  expect(main(decisionRefused(sending, "a-1", busy)).approvals[0]).toMatchObject({ decision: null, sending: null });
  const late = { code: "already_decided", message: "", retryable: false };
  expect(main(decisionRefused(sending, "a-1", late)).approvals).toEqual([]);
  const [elsewhere] = receive(sending, resolve(3, "approve"));
  expect(decisions(decisionRefused(elsewhere, "a-1", late))).toEqual([["a-1", "approve"]]);
});

test("the answer to a message may be the one that took it in", () => {
  const steered = answer("both", 3, "u-1");
  steered.payload.steered_by = ["u-2"];
  const queued: Envelope = event("twin_thinking", { state: "queued" }, { in_response_to: "u-2" });
  const [state] = after(ready(0), user("?", 1), user("and this", 2), queued, steered);
  expect(answerTo(main(state), "u-2")?.text).toBe("both");
  expect(main(state).thinking).toEqual({});
  expect(answerTo(main(state), "u-3")).toBeUndefined();
});

test("a log that began again forgets what was waited for and done", () => {
  const [before] = after(ready(0), user("?", 1), step("s-1", "started"), reasoning("Hm", 0), request(2));
  expect(main(receive(before, ready(0))[0])).toMatchObject({ approvals: [], activity: {}, reasoning: {} });
});
