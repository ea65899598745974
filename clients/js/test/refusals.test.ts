/** What is refused for good is not sent again, and holds up nothing; and a client that is not let in says why. */
import { createServer, connect as dial, type AddressInfo, type Server, type Socket as Wire } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import "fake-indexeddb/auto";
import { conversation, IndexedDbOutbox, MemoryOutbox, reportContext, type TwinClient } from "../src/index.js";
import { main, newUser, online, opened, service } from "./clients.js";
import { mint } from "./service.js";

const servers: Server[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

/** How often the client has left since. */
function departures(client: TwinClient): () => number {
  let count = 0;
  let before = client.state.connection;
  client.subscribe(() => {
    if (client.state.connection !== before && before === "online") count += 1;
    before = client.state.connection;
  });
  return () => count;
}

const cyclic: Record<string, unknown> = {};
cyclic.itself = cyclic;
const NEVER_TAKEN: [string, string, { text?: string; context?: Record<string, unknown> }][] = [
  ["a long text", "too_large", { text: "x".repeat(150_000) }],
  ["a text that is long in bytes", "too_large", { text: "語".repeat(30_000) }],
  ["a long context", "too_large", { context: { page: "x".repeat(150_000) } }],
  ["half an emoji", "invalid_message", { text: "cut \ud83d" }],
  ["half an emoji in a context", "invalid_message", { context: { deep: ["\udc00"] } }],
  ["half an emoji in a key", "invalid_message", { context: { "\ud83d": 1 } }],
  ["a NUL", "invalid_message", { text: "a\0b" }],
  ["a context that is no JSON", "invalid_message", { context: cyclic }],
  ["a number that is no JSON", "invalid_message", { context: { n: 10n } }],
];

test.each(NEVER_TAKEN)("%s is refused here, and the next message goes through", async (_, code, { text = "hello", context }) => {
  const outbox = new MemoryOutbox();
  const client = opened(newUser(), { outbox });
  await online(client);
  const left = departures(client);
  const { id, receipt } = client.send(text, context ? { context } : {});
  expect(main(client).messages[0]).toMatchObject({ id, state: "refused", error: { code, retryable: false } });
  await expect(receipt).rejects.toMatchObject({ code });
  await client.send("hi").receipt;
  expect(main(client).messages.map((one) => one.state)).toContain("stored");
  expect(left()).toBe(0);
  expect(await outbox.all()).toEqual([]);
  expect(client.state.unsent).toBe(0);
});

test("a rating and a context that are too long are refused as well", async () => {
  const client = opened(newUser());
  await online(client);
  const left = departures(client);
  await expect(client.feedback("m", "down", { comment: "x".repeat(150_000) }).receipt).rejects.toMatchObject({ code: "too_large" });
  await expect(client.updateContext({ page: "x".repeat(150_000) })).rejects.toMatchObject({ code: "too_large" });
  await expect(client.search("cut \ud83d")).rejects.toMatchObject({ code: "invalid_message" });
  await client.send("hi").receipt;
  expect(left()).toBe(0);
});

test("what is in an outbox of before and cannot be sent is dropped from it", async () => {
  const name = `old-${newUser()}`;
  const kept = new IndexedDbOutbox(name);
  const entry = { name: "user_message" as const, conversationId: "main" };
  await kept.add({ ...entry, id: "long", payload: { text: "x".repeat(150_000) }, at: 1 });
  await kept.add({ ...entry, id: "cut", payload: { text: "cut \ud83d" }, at: 2 });
  await kept.add({ ...entry, id: "good", payload: { text: "good" }, at: 3 });
  const client = opened(newUser(), { outbox: new IndexedDbOutbox(name) });
  await client.until((state) => conversation(state, "main").messages.some((one) => one.id === "good" && one.state === "stored"));
  await expect.poll(() => kept.all()).toEqual([]);
  expect(main(client).messages.filter((one) => one.state === "refused").map((one) => one.error?.code)).toEqual(["too_large", "invalid_message"]);
});

test("a context that a server would not take is left out at the start, and reported once", async () => {
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  const client = opened(newUser(), { context: { page: "x".repeat(20_000) } });
  await online(client);
  expect(warned).toHaveBeenCalledOnce();
  warned.mockRestore();
  const asked = vi.spyOn(client, "updateContext");
  const stop = reportContext(client, { read: () => ({ page: "x".repeat(150_000) }), everyMs: 20 });
  await expect.poll(() => asked.mock.results.length).toBe(1);
  await client.send("hi").receipt;
  await client.profile();
  expect(asked).toHaveBeenCalledOnce();
  stop();
});

/** A proxy that closes over what is longer than it takes, as the code says; counts the connections. */
async function narrow(code: number, most = 3_000): Promise<{ url: string; count: () => number }> {
  const there = new URL(service.url);
  let count = 0;
  const server = createServer((near: Wire) => {
    count += 1;
    const far = dial(Number(there.port), there.hostname);
    for (const one of [near, far]) one.on("error", () => one.destroy());
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
    far.pipe(near);
    near.on("data", (data: Buffer) => {
      if (data.length < most) return void far.write(data);
      far.unpipe(near);
      near.end(Buffer.from([0x88, 2, code >> 8, code & 255]));
    });
  });
  servers.push(server);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, count: () => count };
}

test.each([1009, 1008, 1003, 1007])("what closes the connection twice (%i) is refused, and the next one is stored", async (code) => {
  const proxy = await narrow(code);
  const client = opened(newUser(), { url: proxy.url });
  await online(client);
  const long = client.send("x".repeat(7_000));
  const next = client.send("hi");
  await expect(long.receipt).rejects.toMatchObject({ code: "too_large" });
  await next.receipt;
  expect(proxy.count()).toBe(3);
  expect(main(client).messages.map((one) => one.state)).toContain("refused");
}, 20_000);

test("a token that stays expired ends in a reason, and another one brings the session back", async () => {
  const user = newUser();
  let token = mint(service, user, { exp: 1_000_000_000 });
  let asked = 0;
  const client = opened(user, { getToken: () => ((asked += 1), token) });
  await expect(online(client)).rejects.toMatchObject({ code: "auth_expired" });
  expect(client.state).toMatchObject({ connection: "refused", reason: { code: "auth_expired" } });
  expect(asked).toBe(2);
  const said = client.send("kept");
  token = mint(service, user);
  client.reconnect();
  await said.receipt;
  expect(client.state).toMatchObject({ connection: "online", reason: null });
});

test("tokens that are all expired end in a reason, too", async () => {
  const user = newUser();
  let asked = 0;
  const client = opened(user, { getToken: () => mint(service, user, { exp: 1_000_000_000 + (asked += 1) }) });
  await expect(online(client)).rejects.toMatchObject({ code: "auth_expired" });
  expect(asked).toBeLessThanOrEqual(4);
});

test.each([
  ["throws", () => { throw new Error("secret words"); }],
  ["rejects", () => Promise.reject(new Error("secret words"))],
])("a getToken that %s is told, and asked again", async (_, fails) => {
  const user = newUser();
  let isFailing = true;
  const client = opened(user, { getToken: () => (isFailing ? fails() : mint(service, user)) });
  await client.until((state) => state.reason?.code === "token_failed");
  expect(client.state.connection).toBe("offline");
  expect(JSON.stringify(client.state)).not.toContain("secret");
  isFailing = false;
  await online(client);
  expect(client.state.reason).toBeNull();
});

test("an address where nothing answers gives a reason after some tries", async () => {
  const client = opened(newUser(), { url: "http://127.0.0.1:9" });
  await client.until((state) => state.reason?.code === "unreachable");
  expect(client.state.connection).toBe("offline");
}, 15_000);

test("the service is found below a path", async () => {
  const there = new URL(service.url);
  const paths: string[] = [];
  const server = createServer((near: Wire) => {
    const far = dial(Number(there.port), there.hostname);
    for (const one of [near, far]) one.on("error", () => one.destroy());
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
    far.pipe(near);
    near.once("data", (head: Buffer) => {
      paths.push(head.toString("latin1").split(" ")[1]!);
      far.write(Buffer.from(head.toString("latin1").replace("/below/twin/", "/"), "latin1"));
      near.pipe(far);
    });
  });
  servers.push(server);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  for (const url of [`http://127.0.0.1:${port}/below/twin`, ` http://127.0.0.1:${port}/below/twin/?x=1#y`]) {
    const client = opened(newUser(), { url });
    await client.send("hello from below").receipt;
    client.close();
  }
  expect(paths.every((path) => path.startsWith("/below/twin/socket.io/?"))).toBe(true);
});
