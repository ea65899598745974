/** What goes to a server, where to and how often: envelopes, the check that they can be taken, the address, the pauses. */
import type { ClientEvents, ErrorPayload } from "./protocol.js";

/** Bytes of an envelope (`docs/protocol.md`); a frame that is much longer closes the connection unread. */
export const ENVELOPE_MAX = 64 * 1024;
/** Bytes of a session's whole context. */
export const CONTEXT_MAX = 16 * 1024;

export const BACKOFF = { first: 500, most: 15_000 };

const UNSENDABLE = /\p{Surrogate}|\0/u;

/** What a server's `error` becomes where somebody waits for an answer. */
export class TwinError extends Error {
  override readonly name = "TwinError";
  constructor(readonly error: ErrorPayload) {
    super(`${error.code}: ${error.message}`);
  }
  get code(): string {
    return this.error.code;
  }
}

export function envelope(name: keyof ClientEvents, payload: object, id: string, where?: string): object {
  const metadata = { message_id: id, timestamp: new Date().toISOString(), ...(where ? { conversation_id: where } : {}) };
  return { type: name, payload, metadata };
}

/** The payload as JSON has it, so that it can be stored and sent later as it was; or why no server will ever take it. */
export function asSent<T extends object>(payload: T, most = ENVELOPE_MAX - 1024): { payload: T } | { error: ErrorPayload } {
  let text: string;
  let isOdd = false;
  try {
    text = JSON.stringify(payload, (key: string, value: unknown) => {
      isOdd ||= UNSENDABLE.test(key) || (typeof value === "string" && UNSENDABLE.test(value));
      return value;
    });
  } catch {
    return refusal("invalid_message", "What was given cannot be written as JSON.");
  }
  // A JSON text has at least as many bytes as characters.
  if (text.length > most || new TextEncoder().encode(text).length > most) {
    return refusal("too_large", `That is too long: at most ${most} bytes can be sent.`);
  }
  if (isOdd) return refusal("invalid_message", "It holds a character that cannot be sent, such as half of an emoji.");
  return { payload: JSON.parse(text) as T };
}

function refusal(code: string, message: string): { error: ErrorPayload } {
  return { error: { code, message, retryable: false, field: "payload" } };
}

/** Where Socket.IO is found at `url`: below the path that the address has. Without a scheme it is the page's. */
export function endpoint(url: string): { origin: string; path: string } {
  const page = typeof location !== "undefined" && location.protocol.startsWith("http") ? location : null;
  let full = url.trim();
  if (/^\/(?!\/)/.test(full)) full = `${page?.origin ?? ""}${full}`;
  else if (!/^[a-z][a-z\d+.-]*:\/\//i.test(full)) full = `${page?.protocol ?? "https:"}//${full.replace(/^\/\//, "")}`;
  const { protocol, host, pathname } = new URL(full);
  return { origin: `${protocol}//${host}`, path: `${pathname.replace(/\/+$/, "")}/socket.io/` };
}

/** Milliseconds to wait: doubling, with jitter, so that clients do not come in step. */
export function backoff(attempt: number): number {
  return Math.min(BACKOFF.most, BACKOFF.first * 2 ** attempt) * (0.5 + Math.random());
}

/** Milliseconds until what has failed may be tried again: no sooner than the server says, and longer with every try. */
export function waitAfter(error: unknown, attempt: number): number {
  const told = error instanceof TwinError ? (error.error.retry_after_ms ?? 0) : 0;
  return Math.max(told, backoff(attempt));
}

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
