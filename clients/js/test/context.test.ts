import { expect, inject, test } from "vitest";
import { connect, MemoryOutbox, reportContext } from "../src/index.js";
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
