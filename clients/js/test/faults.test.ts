/**
 * Nothing is lost, whatever dies: the fault cases that `make faults` has for the Python client and stock clients, with
 * this client. Each device is watched from its first state to its last, and in the end compared with the log.
 */
import { createServer, connect as dial, type AddressInfo, type Server, type Socket as Wire } from "node:net";
import { afterEach, expect, inject, test, vi } from "vitest";
import { connect, conversation, type Options, type TwinClient } from "../src/index.js";
import { control, mint } from "./service.js";
import { sockets } from "./sockets.js";

vi.mock("socket.io-client", async () => (await import("./sockets.js")).recorded);

const service = inject("service");
const url = new URL(service.url);
const clients: TwinClient[] = [];
const networks: Network[] = [];
const wrong = new Map<TwinClient, string[]>();
let users = 0;

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const network of networks.splice(0)) network.close();
});

const newUser = (): string => `fault-${Date.now().toString(36)}-${(users += 1)}`;
const main = (client: TwinClient) => conversation(client.state, "main");
const streaming = (client: TwinClient): string => main(client).messages.find((one) => one.state === "streaming")?.text ?? "";

/** A device, watched: no state of it may take back what an earlier one showed, and none may be final. */
async function device(user: string, more: Partial<Options> = {}): Promise<TwinClient> {
  const client = connect({ url: service.url, getToken: () => mint(service, user), transports: ["websocket"], ...more });
  clients.push(client);
  const faults: string[] = [];
  wrong.set(client, faults);
  const stored = new Map<string, string>();
  const streams = new Map<string, string>();
  client.subscribe(() => {
    const { connection } = client.state;
    if (connection === "refused" || connection === "ended") faults.push(`is ${connection}`);
    const here = main(client).messages;
    const seqs = here.filter((one) => one.seq !== null).map((one) => one.seq!);
    if (seqs.some((seq, at) => at > 0 && seq <= seqs[at - 1]!)) faults.push(`the order is ${seqs}`);
    if (new Set(here.map((one) => one.id)).size < here.length) faults.push("shows a message twice");
    const byId = new Map(here.map((one) => [one.id, one]));
    for (const [id, text] of stored) if (byId.get(id)?.text !== text) faults.push(`took back "${text}"`);
    for (const { id, seq, state, text, generationId } of here) {
      if (seq !== null) stored.set(id, text);
      const before = streams.get(generationId ?? "") ?? "";
      if (generationId && !text.startsWith(before)) faults.push(`"${before}" became "${text}"`);
      if (state === "streaming") streams.set(generationId!, text);
    }
  });
  await client.until((state) => state.connection === "online");
  return client;
}

/** Every device shows what is in the log, to its end and in its order; each message of `sent` is in it and answered, once. */
async function converged(devices: TwinClient[], user: string, sent: string[] = []): Promise<void> {
  const same = async (): Promise<void> => {
    const log: any[] = await control(service, `/log?user=${user}`);
    const said = log.filter((one) => one.type.endsWith("_message"));
    const lines = said.map((one) => ({ seq: one.seq, id: one.message_id, text: one.payload.text, isStored: true }));
    expect(said.filter((one) => one.type === "user_message").map((one) => one.message_id).sort()).toEqual([...sent].sort());
    for (const id of sent) expect(said.filter((one) => one.in_response_to === id)).toMatchObject([{ payload: { status: "complete" } }]);
    for (const { state } of devices) {
      const shown = conversation(state, "main").messages.map((one) => {
        const isStored = one.state === "stored" || one.state === "complete";
        return { seq: one.seq, id: one.id, text: one.text, isStored };
      });
      expect({ at: state.lastSeq, unsent: state.unsent, connection: state.connection, shown }).toEqual({
        at: log.length,
        unsent: 0,
        connection: "online",
        shown: lines,
      });
    }
  };
  await vi.waitFor(same, { timeout: 45_000, interval: 250 });
  for (const one of devices) expect(wrong.get(one)).toEqual([]);
}

/** The network between one device and the service. */
class Network {
  readonly #wires = new Set<Wire>();
  readonly #server: Server = createServer((near) => {
    const far = dial(Number(url.port), url.hostname);
    for (const [one, other] of [[near, far], [far, near]] as const) {
      this.#wires.add(one);
      one.pipe(other).on("error", () => one.destroy());
      one.on("close", () => this.#wires.delete(one) && other.destroy());
    }
    if (this.isDown) near.destroy();
  });
  isDown = false;

  async url(): Promise<string> {
    networks.push(this);
    await new Promise<void>((listening) => this.#server.listen(0, "127.0.0.1", listening));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  down(): void {
    this.isDown = true;
    for (const wire of this.#wires) wire.destroy();
  }

  close(): void {
    this.#server.close();
    this.down();
  }
}

/** Whether the device is offline at any time from now on. */
function left(client: TwinClient): () => boolean {
  let hasLeft = false;
  client.subscribe(() => (hasLeft ||= client.state.connection === "offline"));
  return () => hasLeft;
}

async function inMidStream(client: TwinClient): Promise<void> {
  await client.until(() => streaming(client).length > 0);
}

async function eachOnAnotherServer(user: string): Promise<TwinClient[]> {
  const devices = [];
  for (let n = 0; n < 4; n += 1) devices.push(await device(user)); // the load balancer takes the servers in turns
  return devices;
}

test("a server that is stopped in mid-stream sends its devices to the other, and they miss nothing", async () => {
  const user = newUser();
  await control(service, "/script", { contains: user, count: 25, token_delay_s: 0.04 });
  const devices = await eachOnAnotherServer(user);
  const haveLeft = devices.map(left);
  const sent = devices.map((one, n) => one.send(`${n} ${user}`).id);
  await Promise.all(devices.map(inMidStream));
  await control(service, "/stop", { server: 0 });
  await control(service, "/restart", { server: 0 });
  await converged(devices, user, sent);
  expect(haveLeft.filter((hasLeft) => hasLeft())).toHaveLength(2);
}, 60_000);

test("a MongoDB that is killed keeps what it acknowledged, and gets the rest again, once", async () => {
  const user = newUser();
  const devices = [await device(user), await device(user)];
  const sent: string[] = [];
  const receipts: Promise<unknown>[] = [];
  let isOver = false;
  const talking = devices.map(async (one, n) => {
    while (!isOver) {
      const { id, receipt } = one.send(`${sent.length} by ${n}`);
      sent.push(id);
      receipts.push(receipt);
      await Promise.race([receipt, new Promise((done) => setTimeout(done, 300))]);
      await new Promise((done) => setTimeout(done, 100));
    }
  });
  await devices[1]!.until((state) => conversation(state, "main").messages.filter((one) => one.role === "twin").length > 3);
  await control(service, "/mongod", { do: "kill" });
  await devices[0]!.until((state) => state.unsent > 2);
  await control(service, "/mongod", { do: "restart" });
  isOver = true;
  await Promise.all(talking);
  await Promise.all(receipts);
  await converged(devices, user, sent);
}, 90_000);

test("while Redis hangs whoever is on the same server goes on, and the others are whole once it is back", async () => {
  const user = newUser();
  await control(service, "/script", { contains: user, count: 25, token_delay_s: 0.04 });
  const devices = await eachOnAnotherServer(user);
  const sent = [devices[0]!.send(`first ${user}`)];
  await Promise.all(devices.map(inMidStream));
  await control(service, "/redis", { do: "pause" });
  for (const one of devices) sent.push(one.send(`meanwhile ${user}`));
  await Promise.all(sent.map(({ receipt }) => receipt)); // what is stored is acknowledged without Redis
  const hasAll = (one: TwinClient): boolean => main(one).messages.filter(({ role, seq }) => role === "twin" && seq).length === sent.length;
  await Promise.any(devices.map((one) => one.until(() => hasAll(one))));
  expect(devices.every(hasAll)).toBe(false);
  await control(service, "/redis", { do: "resume" });
  await converged(devices, user, sent.map(({ id }) => id));
}, 60_000);

test("a device that does not read is cut, comes back by itself and is whole; the other notices nothing", async () => {
  const user = newUser();
  const [quick, slow] = [await device(user), await device(user)];
  const haveLeft = [quick, slow].map(left);
  const cutBefore = await control(service, "/cut");
  const tcp = (sockets.at(-1) as any).io.engine.transport.ws._socket as Wire;
  tcp.pause();
  for (let n = 0; (await control(service, "/cut")) === cutBefore && n < 20; n += 1) {
    await control(service, "/write", { user, count: 64, bytes: 16_384 });
  }
  expect(await control(service, "/cut")).toBe(cutBefore + 1);
  tcp.resume();
  await converged([quick, slow], user);
  expect(haveLeft.map((hasLeft) => hasLeft())).toEqual([false, true]);
}, 60_000);

test("a server that hangs is left for the other, without waiting for what it says in the end", async () => {
  const user = newUser();
  const devices = await eachOnAnotherServer(user);
  const haveLeft = devices.map(left);
  await control(service, "/pause", { server: 0 });
  try {
    const sent = devices.map((one, n) => one.send(`${n} ${user}`));
    await expect.poll(() => haveLeft.filter((hasLeft) => hasLeft()).length, { timeout: 15_000 }).toBe(2);
    await Promise.all(sent.map(({ receipt }) => receipt));
    await converged(devices, user, sent.map(({ id }) => id));
    await control(service, "/resume", { server: 0 });
    const last = devices[3]!.send(`once more ${user}`);
    await converged(devices, user, [...sent, last].map(({ id }) => id));
  } finally {
    await control(service, "/resume", { server: 0 });
  }
}, 90_000);

test("a device that was away for hundreds of events gets them without a gap, and an answer that runs", async () => {
  const user = newUser();
  const network = new Network();
  const [here, away] = [await device(user), await device(user, { url: await network.url() })];
  network.down();
  await away.until((state) => state.connection === "offline");
  const said = away.send(`said offline ${user}`);
  await control(service, "/write", { user, count: 250, bytes: 200 });
  await control(service, "/script", { contains: `long ${user}`, count: 100, token_delay_s: 0.03 });
  const asked = here.send(`long ${user}`);
  await inMidStream(here);
  network.isDown = false;
  await inMidStream(away);
  await converged([here, away], user, [asked.id, said.id]);
}, 60_000);

test("a device that was away while all was erased forgets it, though the log has gone on", async () => {
  const user = newUser();
  const network = new Network();
  const away = await device(user, { url: await network.url() });
  await away.send(`a secret ${user}`).receipt;
  await away.until(() => main(away).messages.at(-1)?.state === "complete");
  network.down();
  await away.until((state) => state.connection === "offline");
  const headers = { Authorization: `Bearer ${mint(service, user, { scope: "twin:chat twin:data" })}` };
  expect((await fetch(`${service.url}/v1/data`, { method: "DELETE", headers })).status).toBe(200);
  const here = await device(user);
  for (const text of ["anew", "and more"]) await here.send(text).receipt;
  await here.until(() => main(here).messages.filter((one) => one.state === "complete").length === 2);
  network.isDown = false;
  await away.until((state) => state.lastSeq === here.state.lastSeq && main(away).messages.length === 4);
  expect(main(away).messages.map((one) => one.text)).toEqual(main(here).messages.map((one) => one.text));
  expect(JSON.stringify(away.state)).not.toContain("a secret");
}, 60_000);

test("a new device in the middle of an answer gets what there is of it in one chunk", async () => {
  const user = newUser();
  await control(service, "/script", { contains: user, count: 100, token_delay_s: 0.03 });
  const first = await device(user);
  const { id } = first.send(`at length ${user}`);
  await first.until(() => streaming(first).length > 200);
  const had = streaming(first);
  const second = await device(user);
  const chunks: any[] = [];
  sockets.at(-1)!.on("twin_message_chunk", ({ payload }) => chunks.push(payload));
  await inMidStream(second);
  expect(streaming(second).startsWith(had)).toBe(true);
  await converged([first, second], user, [id]);
  expect(chunks.filter((one) => one.first_chunk_index != null).length).toBeLessThanOrEqual(1);
}, 60_000);

test("what several devices say at once over two servers has one order on all of them", async () => {
  const user = newUser();
  const devices = await eachOnAnotherServer(user);
  const sent = [];
  for (let n = 0; n < 8; n += 1) sent.push(...devices.map((one, at) => one.send(`${n} by ${at}`, { conversationId: "main" })));
  await converged(devices, user, sent.map(({ id }) => id));
  for (const at of devices.keys()) {
    const own = main(devices[0]!).messages.filter((one) => one.role === "user" && one.text.endsWith(`by ${at}`));
    expect(own.map((one) => Number(one.text[0]))).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  }
}, 60_000);
