import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { afterEach, expect, test } from "vitest";
import { answerTo } from "../src/index.js";
import { main, newUser, online, opened, service } from "./clients.js";
import { control } from "./service.js";

const proxies: Server[] = [];
afterEach(() => {
  for (const proxy of proxies.splice(0)) {
    proxy.closeAllConnections();
    proxy.close();
  }
});

/** A proxy in front of a server that lets no WebSocket through. */
async function proxy(onUpgrade: (socket: Duplex) => void): Promise<string> {
  const server: string = await control(service, "/server");
  const made = createServer((asked, answer) => {
    const { method, headers, url } = asked;
    const passed = request(new URL(url ?? "/", server), { method: method ?? "GET", headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer);
    });
    passed.on("error", () => answer.destroy());
    asked.pipe(passed);
  });
  made.on("upgrade", (_, socket) => {
    socket.on("error", () => undefined);
    onUpgrade(socket);
  });
  proxies.push(made);
  await new Promise<void>((done) => made.listen(0, "127.0.0.1", done));
  return `http://127.0.0.1:${(made.address() as AddressInfo).port}`;
}

const behaviours: [string, (socket: Duplex) => void][] = [
  ["refuses WebSockets", (socket) => socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")],
  ["takes WebSockets and answers nothing", () => undefined],
];

test.each(behaviours)("behind a proxy that %s the client talks by long-polling", async (_, onUpgrade) => {
  const user = newUser();
  const url = await proxy(onUpgrade);
  const client = opened(user, { url, transports: ["websocket", "polling"] });
  await online(client);
  const { id, receipt } = client.send("Hello");
  await receipt;
  await client.until(() => answerTo(main(client), id) !== undefined);
  expect(answerTo(main(client), id)).toMatchObject({ state: "complete", text: expect.stringContaining("Hello") });
  const straight = opened(user);
  await straight.until(() => main(straight).messages.length === 2);
  expect(main(straight).messages.map((one) => one.text)).toEqual(main(client).messages.map((one) => one.text));
}, 60_000);
