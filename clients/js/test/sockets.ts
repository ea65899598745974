/** The sockets of the clients of a test file: `vi.mock("socket.io-client", async () => (await import("./sockets.js")).recorded)`. */
import type { Socket } from "socket.io-client";
import { vi } from "vitest";

const library = await vi.importActual<typeof import("socket.io-client")>("socket.io-client");

/** All that were made, the newest last. */
export const sockets: Socket[] = [];

const io = (...args: Parameters<typeof library.io>): Socket => {
  sockets.push(library.io(...args));
  return sockets.at(-1)!;
};

/** The library, which writes down its sockets. */
export const recorded = { ...library, io };
