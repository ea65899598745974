import { expect, test } from "vitest";
import "fake-indexeddb/auto";
import { conversation, IndexedDbOutbox, MemoryOutbox, TwinError, type TwinClient } from "../src/index.js";
import { main, newUser, online, opened, service } from "./clients.js";
import { control, mint } from "./service.js";

const texts = (client: TwinClient): string[] => main(client).messages.map((one) => `${one.role}:${one.state}:${one.text}`);
const answers = (client: TwinClient, count: number) =>
  client.until((state) => conversation(state, "main").messages.filter((one) => one.role === "twin" && one.seq !== null).length >= count);

test("what is said shows at once, is stored, and its answer streams in", async () => {
  const user = newUser();
  await control(service, "/script", { contains: user, tokens: ["one ", "two ", "three"], token_delay_s: 0.08 });
  const client = opened(user);
  const { id, receipt } = client.send(`hello ${user}`);
  expect(main(client).messages[0]).toMatchObject({ id, state: "sending", seq: null });
  expect(await receipt).toMatchObject({ message_id: id, status: "accepted" });
  await client.until((state) => conversation(state, "main").messages.some((one) => one.state === "streaming" && one.text.startsWith("one")));
  await answers(client, 1);
  expect(texts(client)).toEqual([`user:stored:hello ${user}`, "twin:complete:one two three"]);
  expect(main(client).thinking).toEqual({});
});

test("two devices of one user show the same, streaming text included", async () => {
  const user = newUser();
  const [one, two] = [opened(user), opened(user)];
  await Promise.all([online(one), online(two)]);
  await one.until((state) => state.sessions.length === 2);
  for (let n = 0; n < 5; n += 1) await (n % 2 ? one : two).send(`message ${n}`).receipt;
  await Promise.all([answers(one, 5), answers(two, 5)]);
  expect(texts(one)).toEqual(texts(two));
  one.typing(true);
  await two.until((state) => conversation(state, "main").typing.length === 1);
  one.read(main(one).messages.at(-1)!.id);
  await two.until((state) => conversation(state, "main").readSeq === main(one).messages.at(-1)!.seq);
});

test("what is said offline is sent in its order once there is a network", async () => {
  const user = newUser();
  const client = opened(user, { url: "http://127.0.0.1:9" });
  const sent = [1, 2, 3].map((n) => client.send(`offline ${n}`));
  await client.until((state) => state.connection !== "online" && state.unsent === 3);
  expect(texts(client)).toEqual([1, 2, 3].map((n) => `user:sending:offline ${n}`));
  client.close();
  const outbox = new MemoryOutbox();
  sent.forEach(({ id }, n) =>
    void outbox.add({ id, name: "user_message", conversationId: "main", payload: { text: `offline ${n + 1}` }, at: n }),
  );
  const back = opened(user, { outbox });
  await back.until((state) => state.unsent === 0 && state.connection === "online");
  await answers(back, 3);
  expect(texts(back).filter((text) => text.startsWith("user"))).toEqual([1, 2, 3].map((n) => `user:stored:offline ${n}`));
});

test("a message in the outbox of a page that died is sent by the next page, and stored once", async () => {
  const user = newUser();
  const name = `tab-${user}`;
  const first = opened(user, { sessionId: name, outbox: new IndexedDbOutbox(name) });
  const { id, receipt } = first.send("before the reload");
  await receipt;
  await answers(first, 1);
  first.close();
  // As if the acknowledgement had been lost with the page.
  await new IndexedDbOutbox(name).add({ id, name: "user_message", conversationId: "main", payload: { text: "before the reload" }, at: 1 });
  const second = opened(user, { sessionId: name, outbox: new IndexedDbOutbox(name) });
  await second.until((state) => state.connection === "online" && state.unsent === 0);
  await answers(second, 1);
  expect(texts(second).filter((text) => text.startsWith("user"))).toEqual(["user:stored:before the reload"]);
  expect(await new IndexedDbOutbox(name).all()).toEqual([]);
  const log = await control(service, `/log?user=${user}`);
  expect(log.map((one: { type: string }) => one.type)).toEqual(["user_message", "twin_message"]);
});

test("an answer survives the death of its server, and nothing is lost or doubled on any device", async () => {
  const user = newUser();
  await control(service, "/script", { contains: user, count: 40, token_delay_s: 0.03 });
  const devices = [opened(user), opened(user), opened(user)];
  await Promise.all(devices.map(online));
  for (let n = 0; n < 4; n += 1) devices[n % 3]!.send(`${n} ${user}`);
  await devices[0]!.until((state) => conversation(state, "main").messages.some((one) => one.state === "streaming"));
  for (const server of [0, 1]) {
    await control(service, "/kill", { server });
    await control(service, "/restart", { server });
  }
  await Promise.all(devices.map((device) => answers(device, 4)));
  await Promise.all(devices.map(online));
  const log = await control(service, `/log?user=${user}`);
  const stored = log.filter((one: { type: string }) => one.type.endsWith("_message")).map((one: any) => one.payload.text);
  for (const device of devices) {
    await device.until((state) => state.lastSeq === log.length);
    expect(main(device).messages.map((one) => one.text)).toEqual(stored);
  }
  expect(stored.filter((text: string) => text.endsWith(user))).toHaveLength(4);
}, 60_000);

test("a Redis that dies and comes back empty loses nothing that was said", async () => {
  const user = newUser();
  const [one, two] = [opened(user), opened(user)];
  await Promise.all([online(one), online(two)]);
  await control(service, "/redis", { do: "kill" });
  await one.send("while Redis is away").receipt;
  await control(service, "/redis", { do: "restart" });
  await two.send("and back").receipt;
  await Promise.all([answers(one, 2), answers(two, 2)]);
  await Promise.all([one, two].map((device) => device.until((state) => state.lastSeq === 4)));
  expect(texts(one)).toEqual(texts(two));
}, 60_000);

test("a refused message rejects its promise and is shown", async () => {
  const client = opened(newUser());
  const { receipt } = client.send("x".repeat(9_000));
  await expect(receipt).rejects.toThrow(TwinError);
  await expect(receipt).rejects.toMatchObject({ code: "invalid_message" });
  expect(main(client).messages[0]).toMatchObject({ state: "refused", error: { code: "invalid_message" } });
  expect(client.state.unsent).toBe(0);
  const again = client.retry(main(client).messages[0]!.id);
  expect(main(client).messages[0]).toMatchObject({ id: again.id, state: "sending", error: null });
  await expect(again.receipt).rejects.toMatchObject({ code: "invalid_message" });
  expect(texts(client)).toHaveLength(1);
  expect(() => client.retry("nothing-of-this-id")).toThrow(TwinError);
});

test("what one user has not sent is not said in the name of the next one, and waits for the first", async () => {
  const outbox = new MemoryOutbox();
  const [first, second] = [newUser(), newUser()];
  const one = opened(first, { outbox, sessionId: "shared-tab" });
  await online(one);
  const entry = { name: "user_message" as const, conversationId: "main", at: 1, userId: first };
  one.close();
  await outbox.add({ ...entry, id: `${first}-secret`, payload: { text: "a secret" } });
  const two = opened(second, { outbox, sessionId: "shared-tab" });
  await two.until((state) => state.connection === "online" && state.unsent === 0);
  await two.send("hello").receipt;
  expect(texts(two)[0]).toBe("user:stored:hello");
  two.close();
  const back = opened(first, { outbox, sessionId: "shared-tab" });
  await back.until((state) => conversation(state, "main").messages.some((message) => message.text === "a secret" && message.seq !== null));
});

test("a rating shows at once, before any other device hears of it", async () => {
  const client = opened(newUser());
  await client.send("rate this").receipt;
  await answers(client, 1);
  const { receipt } = client.feedback(main(client).messages.at(-1)!.id, "up");
  expect(main(client).messages.at(-1)!.feedback).toMatchObject({ rating: "up" });
  await receipt;
});

test("a token that ends is renewed over the same connection", async () => {
  const user = newUser();
  let minted = 0;
  const client = opened(user, {
    getToken: () => mint(service, user, { exp: Math.floor(Date.now() / 1000) + (minted++ ? 3600 : 62) }),
  });
  await online(client);
  await client.until(() => minted === 1);
  let wentOffline = false;
  client.subscribe(() => (wentOffline ||= client.state.connection !== "online"));
  await expect.poll(() => minted, { timeout: 10_000 }).toBe(2);
  await client.send("still here").receipt;
  expect(wentOffline).toBe(false);
});

test("a token that was cached for too long is asked for anew", async () => {
  const user = newUser();
  let asked = 0;
  const client = opened(user, { getToken: () => mint(service, user, asked++ ? {} : { exp: 1_000_000_000 }) });
  await online(client);
  expect(asked).toBe(2);
});

test("a token that is never accepted ends in a reason, not in a loop", async () => {
  const client = opened(newUser(), { getToken: () => "not.a.token" });
  await expect(client.until((state) => state.connection === "online")).rejects.toMatchObject({ code: "auth_invalid" });
  expect(client.state).toMatchObject({ connection: "refused", reason: { code: "auth_invalid" } });
});

test("a session that is opened elsewhere ends here", async () => {
  const user = newUser();
  const first = opened(user, { sessionId: "same" });
  await online(first);
  // Connections of one session within a tenth of a second count as simultaneous: there the server picks the one that stays.
  const since = Date.now();
  await expect.poll(() => Date.now() - since).toBeGreaterThan(150);
  const second = opened(user, { sessionId: "same" });
  await online(second);
  await expect.poll(() => first.state.connection).toBe("ended");
  expect(first.state.reason).toMatchObject({ code: "replaced" });
  expect(second.state.connection).toBe("online");
});

test("stop, regenerate, feedback, history, conversations, search, profile and context are one call each", async () => {
  const user = newUser();
  await control(service, "/script", { contains: `long ${user}`, count: 400, token_delay_s: 0.02 });
  const client = opened(user, { context: { page: "/start" } });
  const long = client.send(`long ${user}`);
  await client.until((state) => conversation(state, "main").messages.some((one) => one.state === "streaming"));
  await client.stop(long.id);
  await answers(client, 1);
  expect(main(client).messages.at(-1)?.state).toBe("stopped");
  const short = client.send("short");
  await answers(client, 2);
  await client.regenerate(short.id).receipt;
  await answers(client, 3);
  const alternatives = main(client).messages.filter((one) => one.inResponseTo === short.id);
  expect(alternatives).toHaveLength(2);
  await client.feedback(alternatives[1]!.id, "up", { comment: "good" }).receipt;
  const page = await client.history({ limit: 50 });
  expect(page.messages.find((one) => one.message_id === alternatives[1]!.id)?.feedback).toMatchObject({ rating: "up" });
  expect((await client.conversations())[0]).toMatchObject({ conversation_id: "main" });
  const first = main(client).messages[0]!;
  expect((await client.search(first.text, 1)).messages).toMatchObject([{ message_id: first.id, conversation_id: "main", excerpt: first.text }]);
  expect((await client.profile()).version).toBe(client.state.profileVersion);
  expect(await client.updateContext({ page: "/next" })).toMatchObject({ status: "accepted" });
  await expect(client.correct("no-such-trait", "confirm").receipt).rejects.toMatchObject({ code: "not_found" });
});

test("where all was erased nothing of it stays, and what was not sent does", async () => {
  const user = newUser();
  const client = opened(user);
  await client.send("a secret").receipt;
  await client.until(() => main(client).messages.at(-1)?.state === "complete");
  await client.profile();
  await client.conversations();
  const refused = client.send("cut \ud83d");
  await expect(refused.receipt).rejects.toThrow();
  const headers = { Authorization: `Bearer ${mint(service, user, { scope: "twin:chat twin:data" })}` };
  expect((await fetch(`${service.url}/v1/data`, { method: "DELETE", headers })).status).toBe(200);
  await client.until((state) => state.connection === "ended").catch(() => undefined);
  expect(client.state).toMatchObject({ connection: "ended", reason: { code: "erased" }, profile: null, list: null });
  expect(main(client).messages.map((one) => one.id)).toEqual([refused.id]);
  expect(JSON.stringify(client.state)).not.toContain("a secret");
  client.reconnect();
  await client.until(() => main(client).hasMore === false);
  expect(main(client).messages.map((one) => one.id)).toEqual([refused.id]);
});
