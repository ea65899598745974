import { expect, inject, test } from "vitest";
import { connect, MemoryOutbox, reportContext, TwinError, type TwinClient } from "../src/index.js";
import { control, mint } from "./service.js";

test("what the host app shows reaches the next prompt, and only changes are sent", async () => {
  const service = inject("service");
  const user = `context-${Date.now()}`;
  const client = connect({ url: service.url, getToken: () => mint(service, user), transports: ["websocket"], outbox: new MemoryOutbox() });
  let page = "/start";
  let sent = 0;
  const update = client.updateContext.bind(client);
  client.updateContext = async (...given) => {
    const receipt = await update(...given);
    sent += 1;
    return receipt;
  };
  const stop = reportContext(client, { read: () => ({ page }), everyMs: 50 });
  await expect.poll(() => sent).toBe(1);
  page = `/of/${user}`;
  await expect.poll(() => sent).toBe(2);
  await client.send(`where am I, ${user}`).receipt;
  await client.until((state) => state.conversations["main"]?.messages.some((one) => one.role === "twin" && one.seq !== null) ?? false);
  const seen = await control(service, "/seen");
  const prompt = seen.requests.find((one: { stream?: boolean; messages: { content: string }[] }) => one.stream && one.messages.at(-1)!.content.includes(user));
  expect(JSON.stringify(prompt)).toContain(`/of/${user}`);
  expect(sent).toBe(2);
  stop();
  client.close();
});

test("what the host app goes on showing is sent again before the server forgets it", async () => {
  const service = inject("service");
  const client = connect({ url: service.url, getToken: () => mint(service, `idle-${Date.now()}`), transports: ["websocket"], outbox: new MemoryOutbox() });
  const sent: unknown[] = [];
  const update = client.updateContext.bind(client);
  client.updateContext = async (context, mode) => {
    const receipt = await update(context, mode);
    expect(Date.parse(receipt.expires_at!)).toBeGreaterThan(Date.now() + 3_600_000);
    sent.push(context);
    return { ...receipt, expires_at: new Date(Date.now() + 400).toISOString() }; // it would be a day
  };
  const stop = reportContext(client, { read: () => ({ page: "/same" }), everyMs: 50 });
  const began = Date.now();
  await expect.poll(() => sent.length).toBe(3);
  expect(Date.now() - began).toBeGreaterThan(350);
  expect(sent).toEqual(Array(3).fill({ page: "/same" }));
  stop();
  client.close();
});

/** A client that only has a state, and takes contexts as the test says. */
function reported(take: (context: object) => Promise<unknown>) {
  const listeners = new Set<() => void>();
  const asked: object[] = [];
  const client = {
    state: { connection: "online" },
    subscribe: (listener: () => void) => (listeners.add(listener), () => listeners.delete(listener)),
    updateContext: (context: object) => (asked.push(context), take(context)),
  };
  return { client: client as unknown as TwinClient, asked, change: () => listeners.forEach((one) => one()) };
}

const refusal = (more: object) => Promise.reject(new TwinError({ code: "rate_limited", message: "", retryable: true, ...more }));

test("what changes while an answer streams is read at the next look, not with every chunk", async () => {
  const { client, asked, change } = reported(async () => ({}));
  let reads = 0;
  const stop = reportContext(client, { read: () => ({ n: (reads += 1) }) });
  for (let n = 0; n < 25; n += 1) change();
  expect([reads, asked]).toEqual([1, [{ n: 1 }]]);
  stop();
});

test("a context that is refused for a while is sent once that is over, as it is then", async () => {
  let isRefusing = true;
  const { client, asked, change } = reported(() => (isRefusing ? refusal({ retry_after_ms: 900 }) : Promise.resolve({})));
  let page = "/a";
  const stop = reportContext(client, { read: () => ({ page }), everyMs: 50 });
  const began = Date.now();
  await Promise.resolve();
  page = "/b";
  for (let n = 0; n < 5; n += 1) await new Promise((done) => setTimeout(done, 60)).then(change);
  expect(asked).toEqual([{ page: "/a" }]);
  isRefusing = false;
  await expect.poll(() => asked.length, { timeout: 3000 }).toBe(2);
  expect(Date.now() - began).toBeGreaterThan(850);
  expect(asked[1]).toEqual({ page: "/b" });
  stop();
});
