/**
 * A user's session: one Socket.IO connection that comes back, an outbox, and what is known as an observable state.
 *
 * What was sent is sent again, under the same id, until the server has it: over lost acknowledgements, reconnects,
 * reloads. After a reconnect all that was missed comes first, then what is live, with neither a gap nor a repeat.
 */
import { io, type Socket } from "socket.io-client";
import type {
  ClientEvents,
  ConversationListPayload,
  DeviceInfo,
  Envelope,
  ErrorPayload,
  Feedback,
  HistoryPagePayload,
  MessageReceivedPayload,
  ProfilePayload,
  Refusal,
  SearchPayload,
} from "./protocol.js";
import { bestOutbox, type Entry, type Outbox } from "./outbox.js";
import { initial, DEFAULT_CONVERSATION, receive, type State, type Effect } from "./state.js";
import { tabSession, type TabSession } from "./session.js";
import { Sending, type Sent } from "./sending.js";
import { asSent, backoff, BACKOFF, CONTEXT_MAX, endpoint, envelope, newId, TwinError } from "./wire.js";

type Json = Record<string, unknown>;

export interface Options {
  /** Where the service is, such as `https://chat.example.com`, or below a path, `https://example.com/twin`. */
  readonly url: string;
  /** A token that is good now; asked for at every connect and before the one in use ends. May be cached. */
  readonly getToken: () => string | Promise<string>;
  /** The same id for the same device or tab; in a browser it is kept per tab by default, elsewhere made anew. */
  readonly sessionId?: string;
  readonly device?: DeviceInfo;
  /** What the host app shows at the start; see `updateContext`. */
  readonly context?: Json;
  /** Where unsent messages are kept; default: IndexedDB in a browser, memory elsewhere. */
  readonly outbox?: Outbox;
  /** How many messages of a conversation are fetched when it is first asked for; 0: none. */
  readonly page?: number;
  readonly transports?: ("websocket" | "polling")[];
}

const ANSWER_MS = 10_000;
const TOKEN_AGAIN = new Set(["auth_expired", "auth_missing", "auth_invalid"]);
// How servers and proxies close over what was sent (RFC 6455, 7.4.1), and the answer to a POST that is too long.
const NOT_TAKEN = new Set([1003, 1007, 1008, 1009, 413]);
const NO_TOKEN = { code: "token_failed", message: "getToken gave no token." };
const UNREACHABLE = { code: "unreachable", message: "The service does not answer, or does not allow this page's origin." };
const TYPING_MS = 6_000;
const TRIES_UNEXPLAINED = 3;

export class TwinClient {
  readonly #options: Options;
  readonly #socket: Socket;
  readonly #listeners = new Set<() => void>();
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #typing = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #opened = new Set<string>();
  #state: State;
  readonly #session: Promise<TabSession>;
  readonly #sending: Sending;
  #resuming = false;
  #attempts = 0;
  #refusals = 0;
  #token: string | null = null; // that was given last
  #nextToken: string | null = null; // that was asked for already
  readonly #context: Json | undefined;
  #isNotTaken = false;
  #greeted = false;
  #received = 0;

  constructor(options: Options) {
    this.#options = options;
    this.#state = initial(options.sessionId ?? newId());
    const { sessionId } = options;
    this.#session = sessionId ? Promise.resolve({ id: sessionId, release: ignore }) : tabSession(this.#state.sessionId);
    this.#sending = this.#newSending();
    this.#context = options.context && startable(options.context);
    const { origin, path } = endpoint(options.url);
    this.#socket = io(origin, {
      path,
      autoConnect: false,
      forceNew: true,
      timeout: ANSWER_MS,
      transports: options.transports ?? ["websocket", "polling"],
      reconnectionDelay: BACKOFF.first,
      reconnectionDelayMax: BACKOFF.most,
      randomizationFactor: 0.5,
      auth: (give) => void this.#auth(give),
    });
    this.#socket.on("connect", () => (this.#attempts = 0));
    this.#socket.on("connect_error", (error) => this.#refusedEntry(error as Error & { data?: Refusal }));
    this.#socket.on("disconnect", (reason, details) => this.#gone(reason, details));
    this.#socket.onAny((_name: string, envelope: Envelope) => this.#take(envelope));
    void this.#begin();
  }

  #newSending(): Sending {
    const { outbox } = this.#options;
    const client = this;
    const line = {
      get state() {
        return client.#state;
      },
      get isOpen() {
        return client.#greeted;
      },
      get isNotTaken() {
        return client.#isNotTaken;
      },
      show: (state: State) => this.#show(state),
      send: (entry: Entry) => this.#emitForAnswer(entry.name, entry.payload, entry.conversationId, entry.id),
    };
    return new Sending(line, outbox ? Promise.resolve(outbox) : this.#session.then(({ id }) => bestOutbox(id)));
  }

  async #begin(): Promise<void> {
    const { id: sessionId } = await this.#session;
    this.#show({ ...this.#state, sessionId });
    await this.#sending.restore();
    if (this.#state.connection !== "closed") this.#socket.connect();
  }

  // -- what is known ------------------------------------------------------------------------------------------------

  /** What is known now; a new object whenever anything of it changes. */
  get state(): State {
    return this.#state;
  }

  /** Hear of every change; returns how to stop. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** The first state that is as asked; rejects with `TwinError` where the session ends before. */
  until(holds: (state: State) => boolean): Promise<State> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const { connection, reason } = this.#state;
        if (holds(this.#state)) resolve(this.#state);
        else if (connection === "closed" || connection === "ended" || connection === "refused")
          reject(new TwinError({ code: "closed", message: `The session is ${connection}.`, ...reason, retryable: false }));
        else return;
        stop();
      };
      const stop = this.subscribe(look);
      look();
    });
  }

  // -- what can be asked --------------------------------------------------------------------------------------------

  /** Say something. It shows at once as `sending`, and is sent until the server has it. */
  send(text: string, about: { conversationId?: string; context?: Json } = {}): Sent {
    const payload = about.context ? { text, context: about.context } : { text };
    return this.#sending.add("user_message", payload, about.conversationId);
  }

  /** Say again, under the same id, what the server refused: its reason may be gone. */
  retry(messageId: string, conversationId: string = DEFAULT_CONVERSATION): Sent {
    const message = this.#state.conversations[conversationId]?.messages.find((one) => one.id === messageId);
    if (message?.state !== "refused") throw new TwinError({ code: "not_found", message: "No such message was refused.", retryable: false });
    return this.#sending.add("user_message", { text: message.text }, conversationId, messageId);
  }

  /** Answer a user's message anew; the older answers stay as alternatives. */
  regenerate(messageId: string, conversationId?: string): Sent {
    return this.#sending.add("regenerate", { message_id: messageId }, conversationId);
  }

  /** Rate one of the twin's messages; it shows at once. The newest rating counts, `none` takes it back. */
  feedback(messageId: string, rating: Feedback["rating"], more: Omit<Feedback, "message_id" | "rating"> = {}): Sent {
    return this.#sending.add("feedback", { message_id: messageId, rating, ...more });
  }

  /** The user's own word on a trait. */
  correct(traitId: string, action: "confirm" | "reject" | "edit", value?: string): Sent {
    return this.#sending.add("profile_correct", { trait_id: traitId, action, ...(value === undefined ? {} : { value }) });
  }

  /** End the answer to a user's message, wherever it is made. */
  async stop(messageId: string): Promise<void> {
    await this.#ask("stop_generation", { message_id: messageId });
  }

  /** A page of a conversation, added to the state: the newest, or next to a message. */
  async history(about: { conversationId?: string; before?: string; after?: string; limit?: number } = {}): Promise<HistoryPagePayload> {
    const { conversationId, ...page } = about;
    this.#opened.add(conversationId ?? DEFAULT_CONVERSATION);
    return await this.#ask<HistoryPagePayload>("history", page, conversationId);
  }

  /** The user's conversations, the one with the newest message first; also in the state, as `list`. */
  async conversations(): Promise<ConversationListPayload["conversations"]> {
    const found: ConversationListPayload["conversations"] = [];
    let page = await this.#ask<ConversationListPayload>("conversations", { limit: 200 });
    found.push(...page.conversations);
    while (page.has_more && typeof page.next === "number") {
      page = await this.#ask<ConversationListPayload>("conversations", { limit: 200, before: page.next });
      found.push(...page.conversations);
    }
    this.#show({ ...this.#state, list: found });
    return found;
  }

  /** Messages of all conversations that have to do with the text, the best first. */
  async search(text: string, limit?: number): Promise<SearchPayload> {
    return await this.#ask<SearchPayload>("search", { text, ...(limit === undefined ? {} : { limit }) });
  }

  /** The profile; in the state from then on, kept current. */
  async profile(): Promise<ProfilePayload> {
    return await this.#ask<ProfilePayload>("profile_get", {});
  }

  /** What the host app shows: merged (RFC 7386) into this session's context, or in its place. */
  async updateContext(context: Json, mode: "merge" | "replace" = "merge"): Promise<MessageReceivedPayload> {
    return await this.#ask<MessageReceivedPayload>("context_update", { context, mode });
  }

  /** Show the other devices that somebody is typing here; may be lost. */
  typing(isTyping: boolean, conversationId?: string): void {
    if (this.#greeted) this.#emit("typing_indicator", { is_typing: isTyping }, conversationId);
  }

  /** Everything up to and with this message is read. */
  read(messageId: string): void {
    if (this.#greeted) this.#emit("read_receipt", { message_id: messageId });
  }

  /** Come back after `refused` (with another token) or `ended`; in any other state nothing happens. */
  reconnect(): void {
    const { connection } = this.#state;
    if (connection !== "refused" && connection !== "ended") return;
    this.#refusals = 0;
    this.#show({ ...this.#state, connection: "connecting", reason: null });
    this.#socket.connect();
  }

  /** Leave. What is not sent stays in the outbox; nothing else is kept. */
  close(): void {
    for (const timer of [...this.#timers.values(), ...this.#typing.values()]) clearTimeout(timer);
    this.#socket.disconnect();
    this.#greeted = false;
    this.#show({ ...this.#state, connection: "closed" });
    this.#sending.fail("The client was closed.", "closed");
    void this.#session.then(({ release }) => release());
  }

  // -- coming and going ---------------------------------------------------------------------------------------------

  async #auth(give: (auth: object) => void): Promise<void> {
    const { sessionId, lastSeq } = this.#state;
    try {
      const token = this.#nextToken ?? (await this.#askForToken());
      this.#nextToken = null;
      this.#token = token;
      const context = this.#context;
      const { device } = this.#options;
      give({
        token,
        session_id: sessionId,
        ...(lastSeq === null ? {} : { last_seq: lastSeq }),
        ...(device ? { device } : {}),
        // Once: what the host app has said since is newer, and kept by the server.
        ...(context && lastSeq === null ? { context } : {}),
      });
    } catch {
      if (this.#state.connection === "closed") return;
      this.#show({ ...this.#state, connection: "offline", reason: NO_TOKEN });
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
      // The network, or no server: the library tries again by itself.
      if (this.#state.connection === "draining") return;
      this.#attempts += 1;
      const reason = this.#attempts < TRIES_UNEXPLAINED ? this.#state.reason : UNREACHABLE;
      this.#show({ ...this.#state, connection: this.#attempts > 1 ? "offline" : "connecting", reason });
      return;
    }
    // A refused handshake: the library would not try again. A token may have been cached for too long: ask for another.
    const isToken = TOKEN_AGAIN.has(refusal.code);
    const again = isToken ? this.#refusals < 2 : refusal.retryable;
    if (!again) return this.#refused(refusal);
    this.#show({ ...this.#state, connection: "offline", reason: { code: refusal.code, message: refusal.message } });
    const retry = isToken ? () => void this.#withAnotherToken(refusal) : () => void this.#socket.connect();
    this.#again("refused", refusal.retry_after_ms ?? backoff(this.#refusals), retry);
    this.#refusals += 1;
  }

  /** The same token once more would be refused once more. */
  async #withAnotherToken(refusal: Refusal): Promise<void> {
    const token = await this.#askForToken().catch(() => null); // where there is none, the connect says so
    if (this.#state.connection === "closed") return;
    if (token !== null && token === this.#token) return this.#refused(refusal);
    this.#nextToken = token;
    this.#socket.connect();
  }

  #refused({ code, message }: Refusal): void {
    this.#show({ ...this.#state, connection: "refused", reason: { code, message } });
    this.#sending.fail(message, code);
  }

  #gone(reason: string, details?: unknown): void {
    this.#greeted = false;
    const { context, description } = (details ?? {}) as { context?: { code?: number }; description?: unknown };
    this.#isNotTaken = NOT_TAKEN.has(context?.code ?? Number(description));
    this.#resuming = false;
    this.#stop("heartbeat");
    this.#stop("draining");
    if (this.#state.connection === "closed") return;
    if (reason === "io server disconnect") {
      this.#show({ ...this.#state, connection: "ended", reason: { code: "ended", message: "The server ended this session." } });
      this.#sending.fail("The server ended this session.", "ended");
      return;
    }
    this.#show({ ...this.#state, connection: "offline" });
  }

  #greetedBy(): void {
    this.#refusals = 0;
    this.#sending.leaveTo(this.#state.userId);
    this.#beat();
    const page = this.#options.page ?? 50;
    if (page > 0 && this.#opened.size === 0) void this.history({ limit: page }).catch(ignore);
    void this.#sending.flush();
  }

  #beat(): void {
    this.#again("heartbeat", this.#state.heartbeatMs, () => {
      if (this.#greeted) void this.#emitForAnswer("heartbeat", {}).catch(ignore);
      this.#beat();
    });
  }

  // -- in -----------------------------------------------------------------------------------------------------------

  #take(envelope: Envelope): void {
    this.#received += 1;
    const [next, wish] = receive(this.#state, envelope);
    if (envelope.type === "session_ready") this.#greeted = true;
    this.#show(next);
    this.#follow(envelope);
    this.#grant(wish);
  }

  #follow(envelope: Envelope): void {
    switch (envelope.type) {
      case "session_ready":
        return this.#greetedBy();
      case "resumed":
        this.#resuming = false;
        return;
      case "auth_expiring":
        return void this.#refresh();
      case "server_draining": {
        const { reconnect_after_ms } = (envelope as Envelope<"server_draining">).payload;
        // The close comes anyway; leaving at the time that was given spreads everybody's return.
        return this.#again("draining", reconnect_after_ms, () => this.#socket.io.engine?.close());
      }
      case "typing_indicator": {
        const { session_id: who, conversation_id: where } = envelope.metadata;
        return this.#forgetTyping(who ?? "", where ?? DEFAULT_CONVERSATION);
      }
      default:
        return;
    }
  }

  #grant(wish: Effect): void {
    if (wish === "resume" && !this.#resuming && this.#greeted) {
      this.#resuming = true;
      this.#emit("resume", { last_seq: this.#state.lastSeq ?? 0 });
    }
    if (wish === "history") for (const id of this.#opened) void this.history({ conversationId: id }).catch(ignore);
    if (wish === "profile") void this.profile().catch(ignore);
  }

  #forgetTyping(who: string, where: string): void {
    const key = `${where} ${who}`;
    clearTimeout(this.#typing.get(key));
    const over = (): void => {
      const here = this.#state.conversations[where];
      if (!here?.typing.includes(who)) return;
      const quiet = { ...here, typing: here.typing.filter((one) => one !== who) };
      this.#show({ ...this.#state, conversations: { ...this.#state.conversations, [where]: quiet } });
    };
    this.#typing.set(key, setTimeout(over, TYPING_MS));
  }

  async #refresh(): Promise<void> {
    try {
      await this.#ask("auth_refresh", { token: await this.#askForToken() });
    } catch {
      // The server closes when the old token ends; the next connect asks for a token again.
    }
  }

  // -- out ----------------------------------------------------------------------------------------------------------

  /** A question that is worth nothing later: asked once, over the connection that is there. */
  async #ask<T>(name: keyof ClientEvents, payload: object, where?: string): Promise<T> {
    const checked = asSent(payload);
    if ("error" in checked) throw new TwinError(checked.error);
    await this.until(() => this.#greeted);
    const answer = await this.#emitForAnswer(name, checked.payload, where);
    if (answer?.type === "error") throw new TwinError(answer.payload as ErrorPayload);
    return (answer?.payload ?? {}) as T;
  }

  async #emitForAnswer(name: keyof ClientEvents, payload: object, where?: string, id = newId()): Promise<Envelope> {
    const [socket, received] = [this.#socket.id, this.#received];
    try {
      return (await this.#socket.timeout(ANSWER_MS).emitWithAck(name, envelope(name, payload, id, where))) as Envelope;
    } catch (error) {
      // Not a word in all that time: the server hangs, or the network lets nothing through. The library would wait for
      // the ping, most of a minute; another server may be well.
      if (this.#greeted && this.#socket.id === socket && this.#received === received) this.#socket.disconnect().connect();
      throw error;
    }
  }

  #emit(name: keyof ClientEvents, payload: object, where?: string): void {
    this.#socket.emit(name, envelope(name, payload, newId(), where));
  }

  // -- small things -------------------------------------------------------------------------------------------------

  #show(state: State): void {
    if (state === this.#state) return;
    this.#state = state;
    for (const listener of [...this.#listeners]) listener();
  }

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

/** Connect as a user; at once usable, whether there is a network or not. */
export function connect(options: Options): TwinClient {
  return new TwinClient(options);
}

/** A context that a server takes at the start; of another the app's author is told, and the session begins without. */
function startable(context: Json): Json | undefined {
  const checked = asSent(context, CONTEXT_MAX);
  if (!("error" in checked)) return checked.payload;
  console.warn(`twin-sio: the context is left out. ${checked.error.message}`);
  return undefined;
}

function ignore(): void {}
