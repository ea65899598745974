/** One Socket.IO connection that comes back: with which token, after what pause, and what is asked over it. */
import { io, type Socket } from "socket.io-client";
import type { Options } from "./client.js";
import type { ClientEvents, Envelope, Refusal } from "./protocol.js";
import { ended, type State } from "./state.js";
import { asSent, backoff, BACKOFF, CONTEXT_MAX, endpoint, envelope, newId, TwinError } from "./wire.js";

type Json = Record<string, unknown>;
type Ending = { reason: string; message: string };

/** What it needs of the client whose it is. */
export interface Owner {
  readonly state: State;
  show(state: State): void;
  /** An envelope has come. */
  take(envelope: Envelope): void;
  /** Nothing more can be sent for now. */
  fail(message: string, code: string): void;
}

/** What this client knows beside the first of version 1. */
const FEATURES = ["approvals"];
const ANSWER_MS = 10_000;
const TOKEN_AGAIN = new Set(["auth_expired", "auth_missing", "auth_invalid"]);
// How servers and proxies close over what was sent (RFC 6455, 7.4.1), and the answer to a POST that is too long.
const NOT_TAKEN = new Set([1003, 1007, 1008, 1009, 413]);
const ENDED = { reason: "ended", message: "The server ended this session." };
const NO_TOKEN = { code: "token_failed", message: "getToken gave no token." };
const UNREACHABLE = { code: "unreachable", message: "The service does not answer, or does not allow this page's origin." };
const TRIES_UNEXPLAINED = 3;

export class Connection {
  /** Whether the server has greeted this connection. */
  isOpen = false;
  /** Whether the last connection was closed because of what was sent. */
  isNotTaken = false;
  readonly #options: Options;
  readonly #owner: Owner;
  readonly #socket: Socket;
  readonly #context: Json | undefined;
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  #attempts = 0;
  #refusals = 0;
  #token: string | null = null; // that was given last
  #nextToken: string | null = null; // that was asked for already
  #received = 0;
  #ending: Ending = ENDED; // what the server said last of why it ends the session

  constructor(options: Options, owner: Owner) {
    this.#options = options;
    this.#owner = owner;
    this.#context = options.context && startable(options.context);
    const { origin, path } = endpoint(options.url);
    this.#socket = io(origin, {
      path,
      autoConnect: false,
      forceNew: true,
      timeout: ANSWER_MS,
      transports: [...(options.transports ?? ["websocket", "polling"])],
      tryAllTransports: true, // by long-polling where a proxy refuses WebSockets
      withCredentials: typeof document === "undefined", // for the balancer's cookie, which browsers keep by themselves
      reconnectionDelay: BACKOFF.first,
      reconnectionDelayMax: BACKOFF.most,
      randomizationFactor: 0.5,
      auth: (give) => void this.#auth(give),
    });
    this.#socket.on("connect", () => (this.#attempts = 0));
    this.#socket.on("connect_error", (error) => this.#refusedEntry(error as Error & { data?: Refusal }));
    this.#socket.on("disconnect", (reason, details) => this.#gone(reason, details));
    this.#socket.onAny((_name: string, envelope: Envelope) => this.#take(envelope));
  }

  open(): void {
    this.#refusals = 0;
    this.#socket.connect();
  }

  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#socket.disconnect();
    this.isOpen = false;
  }

  /** Once, over the connection that is there; rejects where no answer came. */
  async ask(name: keyof ClientEvents, payload: object, where?: string, id = newId()): Promise<Envelope> {
    const [socket, received] = [this.#socket.id, this.#received];
    try {
      return (await this.#socket.timeout(ANSWER_MS).emitWithAck(name, envelope(name, payload, id, where))) as Envelope;
    } catch (error) {
      // Not a word in all that time: the server hangs, or the network lets nothing through. The library would wait for
      // the ping, most of a minute; another server may be well.
      if (this.isOpen && this.#socket.id === socket && this.#received === received) this.#socket.disconnect().connect();
      throw error;
    }
  }

  emit(name: keyof ClientEvents, payload: object, where?: string): void {
    this.#socket.emit(name, envelope(name, payload, newId(), where));
  }

  // -- coming and going ---------------------------------------------------------------------------------------------

  async #auth(give: (auth: object) => void): Promise<void> {
    const { sessionId, lastSeq } = this.#owner.state;
    try {
      const token = this.#nextToken ?? (await this.#askForToken());
      this.#nextToken = null;
      this.#token = token;
      const context = this.#context;
      const { device } = this.#options;
      give({
        token,
        session_id: sessionId,
        features: FEATURES,
        ...(lastSeq === null ? {} : { last_seq: lastSeq }),
        ...(device ? { device } : {}),
        // Once: what the host app has said since is newer, and kept by the server.
        ...(context && lastSeq === null ? { context } : {}),
      });
    } catch {
      if (this.#owner.state.connection === "closed") return;
      this.#owner.show({ ...this.#owner.state, connection: "offline", reason: NO_TOKEN });
      this.#again("token", backoff(this.#refusals++), () => this.#socket.disconnect().connect());
    }
  }

  /** A token; rejects where the app throws, or gives none in all that time. */
  async #askForToken(): Promise<string> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new TwinError({ ...NO_TOKEN, retryable: true })), ANSWER_MS)));
    try {
      return await Promise.race([this.#options.getToken(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #refusedEntry(error: Error & { data?: Refusal }): void {
    const refusal = error.data;
    if (!refusal?.code) {
      // A proxy may take a WebSocket's handshake and answer nothing: the other way first, from now on.
      if (error.message === "timeout") this.#transports().reverse();
      // The network, or no server: the library tries again by itself.
      if (this.#owner.state.connection === "draining") return;
      this.#attempts += 1;
      const reason = this.#attempts < TRIES_UNEXPLAINED ? this.#owner.state.reason : UNREACHABLE;
      this.#owner.show({ ...this.#owner.state, connection: this.#attempts > 1 ? "offline" : "connecting", reason });
      return;
    }
    // A refused handshake: the library would not try again. A token may have been cached for too long: ask for another.
    const isToken = TOKEN_AGAIN.has(refusal.code);
    const again = isToken ? this.#refusals < 2 : refusal.retryable;
    if (!again) return this.#refused(refusal);
    this.#owner.show({ ...this.#owner.state, connection: "offline", reason: { code: refusal.code, message: refusal.message } });
    const retry = isToken ? () => void this.#withAnotherToken(refusal) : () => void this.#socket.connect();
    this.#again("refused", refusal.retry_after_ms ?? backoff(this.#refusals), retry);
    this.#refusals += 1;
  }

  #transports(): unknown[] {
    const { transports } = this.#socket.io.opts;
    return Array.isArray(transports) ? transports : [];
  }

  /** The same token once more would be refused once more. */
  async #withAnotherToken(refusal: Refusal): Promise<void> {
    const token = await this.#askForToken().catch(() => null); // where there is none, the connect says so
    if (this.#owner.state.connection === "closed") return;
    if (token !== null && token === this.#token) return this.#refused(refusal);
    this.#nextToken = token;
    this.#socket.connect();
  }

  #refused({ code, message }: Refusal): void {
    this.#owner.show({ ...this.#owner.state, connection: "refused", reason: { code, message } });
    this.#owner.fail(message, code);
  }

  #gone(reason: string, details?: unknown): void {
    this.isOpen = false;
    const { context, description } = (details ?? {}) as { context?: { code?: number }; description?: unknown };
    this.isNotTaken = NOT_TAKEN.has(context?.code ?? Number(description));
    this.#stop("heartbeat");
    this.#stop("draining");
    if (this.#owner.state.connection === "closed") return;
    if (reason === "io server disconnect") {
      const { message, reason: code } = this.#ending;
      this.#owner.show(ended(this.#owner.state, { code, message }));
      return this.#owner.fail(message, code);
    }
    this.#owner.show({ ...this.#owner.state, connection: "offline" });
  }

  // -- in -----------------------------------------------------------------------------------------------------------

  #take(envelope: Envelope): void {
    this.#received += 1;
    const isGreeting = envelope.type === "session_ready";
    if (isGreeting) {
      this.isOpen = true;
      this.#ending = ENDED;
      this.#refusals = 0;
    }
    this.#owner.take(envelope);
    if (isGreeting) this.#beat();
    else if (envelope.type === "session_ended") this.#ending = envelope.payload as Ending;
    else if (envelope.type === "auth_expiring") void this.#refresh();
    else if (envelope.type === "server_draining") {
      const { reconnect_after_ms } = (envelope as Envelope<"server_draining">).payload;
      // The close comes anyway; leaving at the time that was given spreads everybody's return.
      this.#again("draining", reconnect_after_ms, () => this.#socket.io.engine?.close());
    }
  }

  async #refresh(): Promise<void> {
    try {
      await this.ask("auth_refresh", { token: await this.#askForToken() });
    } catch {
      // The server closes when the old token ends; the next connect asks for a token again.
    }
  }

  #beat(): void {
    this.#again("heartbeat", this.#owner.state.heartbeatMs, () => {
      if (this.isOpen) void this.ask("heartbeat", {}).catch(ignore);
      this.#beat();
    });
  }

  // -- small things -------------------------------------------------------------------------------------------------

  #again(what: string, afterMs: number, run: () => void): void {
    this.#stop(what);
    const timer = setTimeout(() => {
      this.#timers.delete(what);
      run();
    }, afterMs);
    this.#timers.set(what, timer);
  }

  #stop(what: string): void {
    clearTimeout(this.#timers.get(what));
    this.#timers.delete(what);
  }
}

/** A context that a server takes at the start; of another the app's author is told, and the session begins without. */
function startable(context: Json): Json | undefined {
  const checked = asSent(context, CONTEXT_MAX);
  if (!("error" in checked)) return checked.payload;
  console.warn(`twin-sio: the context is left out. ${checked.error.message}`);
  return undefined;
}

function ignore(): void {}
