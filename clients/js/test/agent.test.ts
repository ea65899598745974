import { expect, test } from "vitest";
import { answerTo, MemoryOutbox, TwinError, type TwinClient } from "../src/index.js";
import { main, newUser, online, opened, service } from "./clients.js";
import { control } from "./service.js";

const board = { name: "open_board", description: "Opens a sprint board.", parameters: { type: "object", properties: { id: { type: "string" } } }, needs_approval: false };
const answered = async (client: TwinClient, id: string) => {
  await client.until(() => answerTo(main(client), id) !== undefined);
  return answerTo(main(client), id)!;
};
const asked = async (client: TwinClient) => {
  await client.until(() => main(client).approvals.some((one) => one.decision === null));
  return main(client).approvals[0]!;
};

/** To these words the twin calls a tool, and then says `then`. */
async function calls(said: string, name: string, args: object, then: string, more: object = {}): Promise<void> {
  await control(service, "/script", { contains: said, streams: true, answered: 0, tokens: ["I do."], calls: [{ name, arguments: args }], ...more });
  await control(service, "/script", { contains: said, streams: true, answered: 1, tokens: [then] });
}
const mail = { to: "bob", text: "Hi" };

test("an app's tool is run once for a call, and the answer goes on with what it gave", async () => {
  const user = newUser();
  const [client, other] = [opened(user), opened(user)];
  await Promise.all([online(client), online(other)]);
  const runs: unknown[] = [];
  client.offerTools([board], ({ arguments: given, callId }) => runs.push([given["id"], callId.length > 0]));
  await calls(`board of ${user}`, "open_board", { id: "7" }, "It is open.");
  const { id, receipt } = other.send(`board of ${user}`);
  await receipt;
  const answer = await answered(client, id);
  expect(answer).toMatchObject({ state: "complete", steps: [{ name: "open_board", state: "done" }] });
  expect(answer.text).toContain("It is open.");
  expect(runs).toEqual([["7", true]]);
  expect(main(client).activity).toEqual({});
});

test("what is offered is offered again after the connection was lost, and what fails is told as text", async () => {
  const user = newUser();
  const client = opened(user);
  client.offerTools([board], () => Promise.reject(new Error("There is no such board.")));
  await online(client);
  for (const server of [0, 1]) {
    await control(service, "/kill", { server });
    await control(service, "/restart", { server });
  }
  await online(client);
  await calls(`board of ${user}`, "open_board", { id: "7" }, "I could not.");
  const { id } = client.send(`board of ${user}`);
  const answer = await answered(client, id);
  expect(answer.steps).toMatchObject([{ name: "open_board", state: "failed" }]);
  const { requests } = await control(service, "/seen");
  expect(JSON.stringify(requests)).toContain("There is no such board.");
}, 60_000);

test("an approval is decided on any device, once, and what was decided offline is sent later", async () => {
  const user = newUser();
  const client = opened(user);
  await calls(`mail of ${user}`, "send_mail", mail, "Sent.");
  const { id } = client.send(`mail of ${user}`);
  const approval = await asked(client);
  expect(approval).toMatchObject({ tool: "send_mail", title: "Send the mail", arguments: mail, inResponseTo: id });
  const late = opened(user, { outbox: new MemoryOutbox() });
  const sent = late.approve(approval.id, "edit", { arguments: { ...mail, to: "eve" } }); // not even connected
  expect(await sent.receipt).toMatchObject({ status: "accepted" });
  expect(await answered(client, id)).toMatchObject({ state: "complete", text: expect.stringContaining("Sent.") });
  expect(main(client).approvals).toEqual([]);
  const refused = client.approve(approval.id, "reject");
  await expect(refused.receipt).rejects.toMatchObject({ code: "already_decided" });
  await expect(client.approve("nothing").receipt).rejects.toBeInstanceOf(TwinError);
});

test("a device that comes later learns from the history what waits", async () => {
  const user = newUser();
  const client = opened(user);
  await calls(`mail of ${user}`, "send_mail", mail, "Not sent.");
  const { id } = client.send(`mail of ${user}`);
  await asked(client);
  const late = opened(user);
  const approval = await asked(late);
  await late.approve(approval.id, "reject", { comment: "no" }).receipt;
  const answer = await answered(late, id);
  expect(answer.steps).toMatchObject([{ name: "send_mail", state: "failed" }]);
});

test("a message interrupts the answer, or is taken in by it", async () => {
  const user = newUser();
  const client = opened(user);
  await control(service, "/script", { contains: `endless ${user}`, count: 2000, token_delay_s: 0.03 });
  const endless = client.send(`endless ${user}`);
  await client.until(() => main(client).messages.some((one) => one.state === "streaming"));
  const instead = client.send("this instead", { mode: "interrupt" });
  expect(await answered(client, instead.id)).toMatchObject({ state: "complete", inResponseTo: instead.id });
  expect(answerTo(main(client), endless.id)).toMatchObject({ state: "stopped", stoppedBy: instead.id });

  const slow = Array.from({ length: 40 }, () => "so ");
  await calls(`fly ${user}`, "find_flights", { city: "Oslo" }, "never said", { tokens: slow, token_delay_s: 0.05 });
  await control(service, "/script", { contains: `Rome ${user}`, streams: true, answered: 1, tokens: ["To Rome."] });
  const fly = client.send(`fly ${user}`);
  await client.until(() => main(client).messages.some((one) => one.state === "streaming" && one.inResponseTo === fly.id));
  const rome = client.send(`Rome ${user}`, { mode: "steer" });
  const answer = await answered(client, rome.id);
  expect(answer).toMatchObject({ inResponseTo: fly.id, steeredBy: [rome.id], state: "complete" });
  expect(answer.text).toContain("To Rome.");
});
