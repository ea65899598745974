/**
 * A user's session: one Socket.IO connection that comes back, an outbox, and what is known as an observable state.
 *
 * What was sent is sent again, under the same id, until the server has it: over lost acknowledgements, reconnects,
 * reloads. After a reconnect all that was missed comes first, then what is live, with neither a gap nor a repeat.
 */
import { untilAnswered } from "./asking.js";
import { Connection } from "./connection.js";
import type { Decision } from "./conversation.js";
import type {
  ClientEvents,
  ConversationListPayload,
  DeviceInfo,
  Envelope,
  ErrorPayload,
  Feedback,
  HistoryPagePayload,
  HostTool,
  MessageReceivedPayload,
  ProfilePayload,
  SearchPayload,
  ToolCallPayload,
  UserMessage,
} from "./protocol.js";
import { Listing } from "./listing.js";
import { bestOutbox, takeOver, type Entry, type Outbox } from "./outbox.js";
import { conversation, initial, DEFAULT_CONVERSATION, receive, type State, type Effect } from "./state.js";
import { tabSession, type TabSession } from "./session.js";
import { Sending, type Sent } from "./sending.js";
import { HostTools, type RunTool } from "./tools.js";
import { asSent, newId, TwinError } from "./wire.js";

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

export interface SendOptions {
  readonly conversationId?: string | undefined;
  readonly context?: Json | undefined;
  /** What it does to an answer that is being made: wait for it (`queue`), end it (`interrupt`), or be taken in at its
   * next step (`steer`), where it then has no answer of its own: see `answerTo`. */
  readonly mode?: NonNullable<UserMessage["mode"]> | undefined;
  /** An id of your own for it, unique for the user. */
  readonly id?: string | undefined;
}

const TYPING_MS = 6_000;

export class TwinClient {
  readonly #options: Options;
  readonly #connection: Connection;
  readonly #sending: Sending;
  readonly #tools: HostTools;
  readonly #session: TabSession;
  readonly #listeners = new Set<() => void>();
  readonly #typing = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #opened = new Set<string>();
  readonly #listing = new Listing(this, (payload) => this.#ask("conversations", payload));
  readonly #wishes = new Map<string, object>(); // the newest of each kind
  #state: State;
  #resuming = false;
  #keepsProfile = false; // it was asked for once

  constructor(options: Options) {
    this.#options = options;
    this.#state = initial(options.sessionId ?? newId());
    const { sessionId } = options;
    this.#session = sessionId ? { id: Promise.resolve(sessionId), release: ignore } : tabSession(this.#state.sessionId);
    this.#connection = this.#newConnection();
    this.#sending = this.#newSending();
    this.#tools = this.#newTools();
    void this.#begin();
  }

  #newConnection(): Connection {
    const client = this;
    return new Connection(this.#options, {
      get state() {
        return client.#state;
      },
      show: (state) => this.#show(state),
      take: (envelope) => this.#take(envelope),
      fail: (message, code) => this.#sending.fail(message, code),
    });
  }

  #newSending(): Sending {
    const { outbox } = this.#options;
    const client = this;
    const line = {
      get state() {
        return client.#state;
      },
      get isOpen() {
        return client.#connection.isOpen;
      },
      get isNotTaken() {
        return client.#connection.isNotTaken;
      },
      show: (state: State) => this.#show(state),
      send: (entry: Entry) => this.#connection.ask(entry.name, entry.payload, entry.conversationId, entry.id),
    };
    return new Sending(line, outbox ? Promise.resolve(outbox) : this.#session.id.then(bestOutbox));
  }

  #newTools(): HostTools {
    const client = this;
    return new HostTools({
      send: (result, id) => void this.#sending.add("tool_result", result, undefined, id),
      has: (callId) => this.#sending.hasResult(callId),
      get sessionId() {
        return client.#state.sessionId;
      },
    });
  }

  async #begin(): Promise<void> {
    const sessionId = await this.#session.id;
    this.#show({ ...this.#state, sessionId });
    await this.#sending.restore();
    if (this.#state.connection !== "closed") this.#connection.open();
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
  send(text: string, { conversationId, context, mode, id }: SendOptions = {}): Sent {
    const payload = { text, ...(context ? { context } : {}), ...(mode && mode !== "queue" ? { mode } : {}) };
    return this.#sending.add("user_message", payload, conversationId, id);
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

  /** Decide on a tool's call that an answer waits for; it shows at once. The first decision of all devices counts:
   * `already_decided` where that was another. `arguments` are those of an `edit`. */
  approve(
    approvalId: string,
    decision: Decision = "approve",
    { arguments: edited, comment }: { arguments?: Json | undefined; comment?: string | undefined } = {},
  ): Sent {
    const of = Object.values(this.#state.conversations).find((one) => one.approvals.some(({ id }) => id === approvalId));
    const more = { ...(edited ? { arguments: edited } : {}), ...(comment ? { comment } : {}) };
    return this.#sending.add("approval", { approval_id: approvalId, decision, ...more }, of?.id);
  }

  /** Let the twin use what this app can do, until the returned function is called. `run` gets each call once; what it
   * gives is the tool's output, what it throws is told the twin as text. */
  offerTools(tools: readonly HostTool[], run: RunTool): () => void {
    const remove = this.#tools.add(tools, run);
    this.#tellTools();
    return () => {
      remove();
      this.#tellTools();
    };
  }

  #tellTools(): void {
    if (!this.#tools.isUsed || !this.#connection.isOpen) return;
    this.#want("tools", () => this.#ask("host_tools", { tools: this.#tools.offered })).catch((error: unknown) => {
      if (this.#connection.isOpen && error instanceof TwinError) console.warn(`twin-sio: the tools are not offered. ${error.message}`);
    });
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

  /** The user's conversations, the one with the newest message first; also in the state, as `list`. Where they are known,
   * `newest` asks for those 200 only that were talked in last, and leaves the others as they were. */
  async conversations({ newest = false } = {}): Promise<ConversationListPayload["conversations"]> {
    const list = await this.#listing.fetch(newest);
    this.#show({ ...this.#state, list });
    return list;
  }

  /** Messages of all conversations that have to do with the text, the best first. */
  async search(text: string, limit?: number): Promise<SearchPayload> {
    return await this.#ask<SearchPayload>("search", { text, ...(limit === undefined ? {} : { limit }) });
  }

  /** The profile; in the state from then on, kept current. */
  async profile(): Promise<ProfilePayload> {
    this.#keepsProfile = true;
    return await this.#ask<ProfilePayload>("profile_get", {});
  }

  /** What the host app shows: merged (RFC 7386) into this session's context, or in its place. */
  async updateContext(context: Json, mode: "merge" | "replace" = "merge"): Promise<MessageReceivedPayload> {
    return await this.#ask<MessageReceivedPayload>("context_update", { context, mode });
  }

  /** Show the other devices that somebody is typing here; may be lost. */
  typing(isTyping: boolean, conversationId?: string): void {
    if (this.#connection.isOpen) this.#connection.emit("typing_indicator", { is_typing: isTyping }, conversationId);
  }

  /** Everything up to and with this message is read; told until the server has it, or something newer was read. */
  read(messageId: string): void {
    const where = Object.values(this.#state.conversations).find((one) => one.messages.some(({ id }) => id === messageId));
    void this.#want(`read ${where?.id}`, () => this.#ask("read_receipt", { message_id: messageId })).catch(ignore);
  }

  /** Come back after `refused` (with another token) or `ended`; in any other state nothing happens. */
  reconnect(): void {
    const { connection } = this.#state;
    if (connection !== "refused" && connection !== "ended") return;
    this.#show({ ...this.#state, connection: "connecting", reason: null });
    this.#connection.open();
  }

  /** Leave. What is not sent stays in the outbox; nothing else is kept. */
  close(): void {
    for (const timer of this.#typing.values()) clearTimeout(timer);
    this.#connection.close();
    this.#show({ ...this.#state, connection: "closed" });
    this.#sending.fail("The client was closed.", "closed");
    this.#session.release();
  }

  // -- in -----------------------------------------------------------------------------------------------------------

  #take(envelope: Envelope): void {
    const [next, wish] = receive(this.#state, envelope);
    this.#show(next);
    this.#follow(envelope);
    this.#grant(wish);
  }

  #follow(envelope: Envelope): void {
    switch (envelope.type) {
      case "session_ready":
        return this.#greeted();
      case "resumed":
        this.#resuming = false;
        return;
      case "tool_call":
        return this.#tools.take(envelope.payload as ToolCallPayload);
      case "typing_indicator": {
        const { session_id: who, conversation_id: where } = envelope.metadata;
        return this.#forgetTyping(who ?? "", where ?? DEFAULT_CONVERSATION);
      }
      default:
        return;
    }
  }

  #greeted(): void {
    this.#resuming = false;
    this.#sending.leaveTo(this.#state.userId);
    this.#tools.giveUp();
    this.#tellTools();
    const page = this.#options.page ?? 50;
    // What was opened and is not there, or not any more; at first, the conversation that every device opens.
    const opened = this.#opened.size > 0 ? [...this.#opened] : [DEFAULT_CONVERSATION];
    if (page > 0) for (const id of opened) if (conversation(this.#state, id).hasMore === null) this.#wantPage(id, page);
    if (this.#keepsProfile && this.#state.profile === null) this.#grant("profile");
    void this.#sending.flush();
    if (!this.#options.outbox) takeOver(this.#state.sessionId, this.#state.userId, (entry) => this.#sending.take(entry)).catch(ignore);
  }

  #grant(wish: Effect): void {
    if (wish === "resume" && !this.#resuming && this.#connection.isOpen) {
      this.#resuming = true;
      const resume = async (): Promise<unknown> => this.#resuming && this.#ask("resume", { last_seq: this.#state.lastSeq ?? 0 });
      void this.#want("resume", resume).catch(ignore);
    }
    if (wish === "history") for (const id of this.#opened) this.#wantPage(id);
    if (wish === "profile") void this.#want("profile", () => this.profile()).catch(ignore);
  }

  #wantPage(conversationId: string, limit?: number): void {
    void this.#want(`page ${conversationId}`, () => this.history({ conversationId, ...(limit ? { limit } : {}) })).catch(ignore);
  }

  /** What this client itself has to know, or tell: asked until it is answered. The newest wish of a kind counts. */
  async #want(kind: string, ask: () => Promise<unknown>): Promise<void> {
    const wish = {};
    this.#wishes.set(kind, wish);
    await untilAnswered(this, ask, () => this.#wishes.get(kind) === wish);
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

  // -- out ----------------------------------------------------------------------------------------------------------

  /** A question that is worth nothing later: asked once, over the connection that is there. */
  async #ask<T>(name: keyof ClientEvents, payload: object, where?: string): Promise<T> {
    const checked = asSent(payload);
    if ("error" in checked) throw new TwinError(checked.error);
    await this.until(() => this.#connection.isOpen);
    const answer = await this.#connection.ask(name, checked.payload, where);
    if (answer?.type === "error") throw new TwinError(answer.payload as ErrorPayload);
    return (answer?.payload ?? {}) as T;
  }

  // -- small things -------------------------------------------------------------------------------------------------

  #show(state: State): void {
    if (state === this.#state) return;
    this.#state = state;
    for (const listener of [...this.#listeners]) listener();
  }
}

/** Connect as a user; at once usable, whether there is a network or not. */
export function connect(options: Options): TwinClient {
  return new TwinClient(options);
}

function ignore(): void {}
