/** Clients of the running service, which are closed after each test. */
import { afterEach, inject } from "vitest";
import { connect, conversation, MemoryOutbox, type Options, type TwinClient } from "../src/index.js";
import { mint } from "./service.js";

export const service = inject("service");

const clients: TwinClient[] = [];
let users = 0;

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

/** A user that no other test has. */
export const newUser = (): string => `js-${Date.now().toString(36)}-${(users += 1)}`;

/** A client of this user, with an outbox in memory. */
export function opened(user: string, more: Partial<Options> = {}): TwinClient {
  const client = connect({
    url: service.url,
    getToken: () => mint(service, user),
    transports: ["websocket"],
    sessionId: `s-${(users += 1)}`,
    outbox: new MemoryOutbox(),
    ...more,
  });
  clients.push(client);
  return client;
}

export const main = (client: TwinClient) => conversation(client.state, "main");
export const online = (client: TwinClient) => client.until((state) => state.connection === "online");
