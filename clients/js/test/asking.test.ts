/** What fails in passing is asked for again, by whoever asked: the first page, the profile, what was read ... */
import { afterEach, expect, test, vi } from "vitest";
import { Connection } from "../src/connection.js";
import type { ClientEvents, Envelope } from "../src/protocol.js";
import { TwinChatTransport } from "../src/ai-sdk.js";
import { untilAnswered } from "../src/index.js";
import { main, newUser, online, opened } from "./clients.js";
import { event } from "./events.js";
import { sockets } from "./sockets.js";

vi.mock("socket.io-client", async () => (await import("./sockets.js")).recorded);

afterEach(() => void vi.restoreAllMocks());

/** What the newest client hears, beside what its server says. */
const hear = (envelope: Envelope): void => sockets.at(-1)!.listenersAny().forEach((listener) => listener(envelope.type, envelope));

const refused = (more: object) => event("error", { code: "rate_limited", message: "", retryable: true, ...more }, {}) as Envelope;

/** Of the questions of this name the first is refused in passing, the second lost; what became of each. */
function failing(name: keyof ClientEvents, answers: (() => Promise<Envelope>)[] = [async () => refused({ retry_after_ms: 50 }), () => Promise.reject(new Error("lost"))]) {
  const asked: string[] = [];
  const { ask } = Connection.prototype;
  vi.spyOn(Connection.prototype, "ask").mockImplementation(async function (this: Connection, ...question) {
    const answer = question[0] === name ? answers.shift() : undefined;
    const [envelope] = await Promise.allSettled([answer ? answer() : ask.apply(this, question)]);
    if (question[0] === name) asked.push(envelope.status === "rejected" ? "lost" : (envelope.value?.type ?? "answered"));
    if (envelope.status === "rejected") throw envelope.reason;
    return envelope.value;
  });
  return asked;
}

test("the first page is asked for until it is there", async () => {
  const asked = failing("history");
  const client = opened(newUser());
  await client.until(({ conversations }) => conversations["main"]?.hasMore === false);
  await expect.poll(() => asked).toEqual(["error", "lost", "history"]);
});

test("what is refused for good is asked for once", async () => {
  const asked = failing("history", [async () => refused({ code: "forbidden", retryable: false })]);
  const client = opened(newUser());
  await client.send("hi").receipt;
  await new Promise((done) => setTimeout(done, 1500));
  expect(asked).toEqual(["error"]);
});

test("tools are offered until the server knows them", async () => {
  const client = opened(newUser());
  await online(client);
  const asked = failing("host_tools");
  client.offerTools([{ name: "open", description: "It opens.", parameters: {}, needs_approval: false }], () => null);
  await expect.poll(() => asked, { timeout: 5000 }).toEqual(["error", "lost", "message_received"]);
});

test("a profile that has changed is asked for until it is there", async () => {
  const client = opened(newUser());
  await client.profile();
  const asked = failing("profile_get");
  hear(event("profile_update", { version: 9, changes: [] }, { seq: (client.state.lastSeq ?? 0) + 1 }));
  await expect.poll(() => asked, { timeout: 5000 }).toEqual(["error", "lost", "profile"]);
});

test("a gap is filled by another resume where the first one failed", async () => {
  const client = opened(newUser());
  await online(client);
  const asked = failing("resume");
  hear(event("resync", { reason: "gap" }, {}));
  await expect.poll(() => asked, { timeout: 5000 }).toEqual(["error", "lost", "resumed"]);
  hear(event("resync", { reason: "gap" }, {}));
  await expect.poll(() => asked.length).toBe(4);
});

test("what was read is told until the server has it, and only the newest of a conversation", async () => {
  const user = newUser();
  const [client, other] = [opened(user), opened(user)];
  await online(other);
  for (const text of ["one", "two"]) {
    await client.send(text).receipt;
    await client.until(() => main(client).messages.at(-1)?.state === "complete");
  }
  const [first, second] = main(client).messages.filter((one) => one.role === "twin");
  const asked = failing("read_receipt");
  client.read(first!.id);
  await expect.poll(() => asked.length).toBe(1);
  client.read(second!.id);
  await other.until(() => main(other).readSeq === second!.seq);
  expect(asked.slice(0, 3)).toEqual(["error", "lost", "answered"]);
  await new Promise((done) => setTimeout(done, 1000));
  expect(asked).toHaveLength(3);
});

test("a question waits for the next connection, and ends with the client", async () => {
  const client = opened(newUser());
  await online(client);
  let times = 0;
  const answer = untilAnswered(client, async () => {
    times += 1;
    if (times > 1) return client.state.connection;
    sockets.at(-1)!.io.engine.close();
    throw new Error("lost");
  });
  expect(await answer).toBe("online");
  const never = untilAnswered(client, () => Promise.reject(new Error("lost")));
  client.close();
  await expect(never).rejects.toMatchObject({ code: "closed" });
});

test("an answer anew that is refused for good fails in useChat, too", async () => {
  const client = opened(newUser());
  await online(client);
  const transport = new TwinChatTransport(client);
  const messages = [{ id: "no-such-message", role: "user" as const, parts: [{ type: "text" as const, text: "?" }] }];
  const stream = await transport.sendMessages({ trigger: "regenerate-message", chatId: "main", messageId: undefined, messages, abortSignal: undefined });
  await expect(stream.getReader().read()).rejects.toMatchObject({ code: "not_found" });
  expect(transport.isStreaming("main")).toBe(false);
});

const line = (id: string, unread = 0) => ({ conversation_id: id, title: id, last_message: null, unread });
/** A page of the list, as a server gives it: as an event, too. */
const listed = (ids: string[], next?: number) => async (): Promise<Envelope> => {
  const page = event("conversations", { conversations: ids.map((id) => line(id)), has_more: next !== undefined, ...(next === undefined ? {} : { next }) }, {});
  hear(page);
  return page;
};

test("the list is shown whole, and a page of it that is refused is asked for alone", async () => {
  const client = opened(newUser());
  await online(client);
  const shown: (number | undefined)[] = [];
  client.subscribe(() => client.state.list?.length !== shown.at(-1) && shown.push(client.state.list?.length));
  const asked = failing("conversations", [listed(["a", "b"], 7), async () => refused({ retry_after_ms: 50 }), () => Promise.reject(new Error("lost")), listed(["c"])]);
  expect((await client.conversations()).map((one) => one.conversation_id)).toEqual(["a", "b", "c"]);
  expect(asked).toEqual(["conversations", "error", "lost", "conversations"]);
  expect(shown).toEqual([3]);
});

test("the newest conversations are one page, and the others stay as they were known", async () => {
  const client = opened(newUser());
  await online(client);
  const ids = () => client.state.list?.map((one) => one.conversation_id);
  const asked = failing("conversations", [listed(["a", "b"], 7), listed(["c", "d"]), listed(["d", "new"], 8), listed(["d"])]);
  await Promise.all([client.conversations({ newest: true }), client.conversations()]); // both want all of it: it is fetched once
  expect(asked).toHaveLength(2);
  await client.conversations({ newest: true });
  expect(ids()).toEqual(["d", "new", "a", "b", "c"]);
  await client.conversations({ newest: true }); // that was all there is
  expect(ids()).toEqual(["d"]);
  expect(asked).toHaveLength(4);
});
