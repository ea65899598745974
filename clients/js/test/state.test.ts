import { expect, test } from "vitest";
import type { Envelope } from "../src/protocol.js";
import { conversation, receive, said } from "../src/state.js";
import { after, answer, chunk, event, ready, shown, user } from "./events.js";

test("durable events are applied once and in order, and a hole asks to resume", () => {
  const [state, wishes] = after(ready(0), user("a", 1), user("a", 1), user("c", 3), user("b", 2), user("c", 3));
  expect(shown(state)).toEqual(["a", "b", "c"]);
  expect(wishes).toEqual([null, null, null, "resume", null, null]);
  expect(state.lastSeq).toBe(3);
});

test("chunks are joined by index, repeats and what comes out of turn add nothing", () => {
  const [state] = after(ready(1), chunk("a", 0), chunk("b", 1), chunk("b", 1), chunk("d", 3), chunk("c", 2));
  expect(shown(state)).toEqual(["abc"]);
});

test("a merged chunk replaces what was there, and an older one does not", () => {
  const [state] = after(ready(1), chunk("a", 0), chunk("abc", 2, "g", "u-1", 0), chunk("ab", 1, "g", "u-1", 0), chunk("d", 3));
  expect(shown(state)).toEqual(["abcd"]);
});

test("another generation takes the place of the first, and late chunks of an ended one show nothing", () => {
  const [state] = after(ready(0), user("?", 1), chunk("old", 0, "g1"), chunk("new", 0, "g2"), answer("new!", 2, "u-1", "g2"), chunk("x", 0, "g2"));
  expect(shown(state)).toEqual(["?", "new!"]);
});

test("nobody comes into the middle of a generation without its beginning", () => {
  const [state] = after(ready(1), chunk("middle", 4));
  expect(shown(state)).toEqual([]);
});

test("the text of the finished answer has the last word", () => {
  const [state] = after(ready(0), user("?", 1), chunk("half", 0), answer("the whole", 2, "u-1"));
  expect(shown(state)).toEqual(["?", "the whole"]);
});

test("a log that began again forgets all but what is not sent yet", () => {
  const [before] = after(ready(0), user("a", 1), answer("b", 2, "u-1"));
  const [state] = receive(said(before, "mine", "main", "unsent"), ready(0));
  expect(shown(state)).toEqual(["unsent"]);
  expect(state.lastSeq).toBe(0);
});

test("a receipt gives one's own message its place between the others'", () => {
  const [before] = after(ready(0), user("a", 1));
  const mine = said(before, "mine", "main", "mine");
  const [state] = receive(mine, event("message_received", { message_id: "mine", status: "accepted" }, { seq: 2 }));
  expect(conversation(receive(state, user("c", 3))[0], "main").messages.map((one) => [one.text, one.seq])).toEqual([["a", 1], ["mine", 2], ["c", 3]]);
});

test("what does not change keeps its identity", () => {
  const [before] = after(ready(0), user("a", 1), answer("b", 2, "u-1"));
  const [state] = receive(before, event("typing_indicator", { is_typing: true }, { conversation_id: "other", session_id: "x" }));
  expect(state.conversations["main"]).toBe(before.conversations["main"]);
  expect(receive(state, user("a", 1))[0]).toBe(state);
});

test("nothing of one user is shown to the next", () => {
  const [log] = after(ready(0), user("a", 1), event("profile", { version: 1, as_of: "2026-01-01T00:00:00.000Z", traits: [] }, {}));
  const before = { ...said(log, "mine", "main", "unsent"), list: [] };
  const [state] = receive(before, { ...ready(7), payload: { ...(ready(7).payload as object), user_id: "another" } } as Envelope);
  expect(state).toMatchObject({ profile: null, list: null, lastSeq: 7 });
  expect(shown(state)).toEqual(["unsent"]);
});
