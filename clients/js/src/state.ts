/**
 * What a client knows, envelope by envelope. Pure: no socket, no clock, no storage; every state is frozen in practice,
 * a change makes a new one, and what has not changed keeps its identity (good for React).
 *
 * The rules of the protocol that everything here serves:
 * - durable events carry a `seq` and are applied in its order, each once; a hole asks for `resume`;
 * - chunks are joined by their index within a generation; the text of `twin_message` has the last word;
 * - what the user says is shown at once and is `sending` until the server says that it is stored.
 */
import type {
  ConversationLine,
  Envelope,
  ErrorPayload,
  FeedbackPayload,
  HistoryMessage,
  HistoryPagePayload,
  SessionEntry,
  SessionLimits,
  Trait,
} from "./protocol.js";

export type MessageState = "sending" | "stored" | "refused" | "streaming" | "complete" | "stopped" | "interrupted" | "failed";

export interface Message {
  readonly id: string;
  readonly role: "user" | "twin";
  readonly text: string;
  readonly state: MessageState;
  /** Its place in the log; null while it is not stored, or is being written. */
  readonly seq: number | null;
  readonly timestamp: string | null;
  /** Of the twin's messages: the user's message that it answers. Answers that share it are alternatives. */
  readonly inResponseTo: string | null;
  /** The session that said it, or caused it. */
  readonly sessionId: string | null;
  readonly generationId: string | null;
  readonly model: string | null;
  /** The traits that the prompt of the answer held. */
  readonly usedTraits: readonly string[];
  readonly feedback: FeedbackPayload | null;
  /** What cut a complete answer short: its longest length, or the rules of the model's provider. */
  readonly finish: "length" | "content_filter" | null;
  /** The code of why an answer failed. */
  readonly failure: string | null;
  /** Why it was refused, or failed. */
  readonly error: ErrorPayload | null;
}

export interface Conversation {
  readonly id: string;
  /** As every device shows them: what is stored by seq, then what is being written, then what is not stored yet. */
  readonly messages: readonly Message[];
  /** Where the answer to a user's message stands, by that message's id; `done` is left out. */
  readonly thinking: Readonly<Record<string, "queued" | "recalling" | "thinking">>;
  /** The other sessions that are typing at this moment. */
  readonly typing: readonly string[];
  /** The newest seq that any device has read. */
  readonly readSeq: number;
  /** Whether there is more before the oldest message here; null while no page was asked for. */
  readonly hasMore: boolean | null;
}

export type Connection = "connecting" | "online" | "offline" | "draining" | "refused" | "ended" | "closed";

export interface State {
  readonly connection: Connection;
  /** Why it is refused, ended or offline, as far as that is known; null while all is well. Beside the protocol's codes:
   * `token_failed` (`getToken` threw, or gave nothing) and `unreachable` (no answer; a browser does not tell a service
   * that is down from one that refuses the page's origin). Both are tried again. */
  readonly reason: { readonly code: string; readonly message: string } | null;
  readonly userId: string | null;
  readonly sessionId: string;
  /** Everybody's live sessions, one's own included. */
  readonly sessions: readonly SessionEntry[];
  readonly limits: SessionLimits | null;
  readonly heartbeatMs: number;
  /** The newest seq that was applied; null until the server has said where the log stands. */
  readonly lastSeq: number | null;
  readonly conversations: Readonly<Record<string, Conversation>>;
  /** The last result of `conversations()`; null while it was not asked. */
  readonly list: readonly ConversationLine[] | null;
  readonly profile: { readonly version: number; readonly traits: readonly Trait[] } | null;
  readonly profileVersion: number;
  /** What waits to be stored by the server. */
  readonly unsent: number;
}

/** What an envelope asks its reader to do beside showing the new state. */
export type Effect = "resume" | "history" | "profile" | null;

export const DEFAULT_CONVERSATION = "main";

export function initial(sessionId: string): State {
  return {
    connection: "connecting",
    reason: null,
    userId: null,
    sessionId,
    sessions: [],
    limits: null,
    heartbeatMs: 25_000,
    lastSeq: null,
    conversations: {},
    list: null,
    profile: null,
    profileVersion: 0,
    unsent: 0,
  };
}

export function conversation(state: State, id: string): Conversation {
  return state.conversations[id] ?? { id, messages: [], thinking: {}, typing: [], readSeq: 0, hasMore: null };
}

/** A message of one's own, before the server has it. Saying it again changes nothing, but where it was refused. */
export function said(state: State, id: string, conversationId: string, text: string): State {
  return within(state, conversationId, (here) => {
    const known = here.messages.find((message) => message.id === id);
    if (known === undefined) return put(here, { ...blank(id, "user"), text, state: "sending", sessionId: state.sessionId });
    return known.state === "refused" ? put(here, { ...known, state: "sending", error: null }) : here;
  });
}

/** A rating of one's own; the server tells only the other devices. */
export function rated(state: State, feedback: FeedbackPayload): State {
  const holds = (one: Conversation): boolean => one.messages.some((message) => message.id === feedback.message_id);
  const where = Object.values(state.conversations).find(holds);
  return where ? within(state, where.id, (here) => change(here, feedback.message_id, { feedback })) : state;
}

/** A message that is not this user's to say. */
export function forgotten(state: State, id: string, conversationId: string): State {
  return within(state, conversationId, (here) => ({ ...here, messages: here.messages.filter((one) => one.id !== id) }));
}

/** The server will not take what was sent under this id. */
export function refused(state: State, id: string, conversationId: string, error: ErrorPayload): State {
  return within(state, conversationId, (here) => change(here, id, { state: "refused", error }));
}

/** One envelope from the server. */
export function receive(state: State, envelope: Envelope): [State, Effect] {
  const { seq } = envelope.metadata;
  switch (envelope.type) {
    case "session_ready":
      return [ready(state, envelope as Envelope<"session_ready">), null];
    case "user_message":
    case "twin_message":
    case "feedback":
    case "read_receipt":
    case "profile_update":
      return durable(state, envelope, seq ?? null);
    case "message_received":
      return receipt(state, envelope as Envelope<"message_received">, seq ?? null);
    case "resumed": {
      const { through_seq, complete } = (envelope as Envelope<"resumed">).payload;
      const at = { ...state, lastSeq: Math.max(through_seq, state.lastSeq ?? 0) };
      return [at, complete ? null : "history"];
    }
    case "resync":
      return [state, "resume"];
    case "heartbeat_ack": {
      const { head_seq } = (envelope as Envelope<"heartbeat_ack">).payload;
      return [state, state.lastSeq !== null && head_seq > state.lastSeq ? "resume" : null];
    }
    default:
      return [ephemeral(state, envelope), null];
  }
}

function ready(state: State, { payload, metadata }: Envelope<"session_ready">): State {
  // Where the log began again (the user was erased) all is forgotten with it, but for what is not sent yet.
  const isSame = state.lastSeq === null || (payload.seq >= state.lastSeq && state.userId === payload.user_id);
  const kept: State["conversations"] = isSame ? state.conversations : unsentOnly(state.conversations);
  return {
    ...state,
    connection: "online",
    reason: null,
    userId: payload.user_id,
    sessionId: metadata.session_id ?? state.sessionId,
    sessions: payload.sessions,
    limits: payload.limits,
    heartbeatMs: payload.heartbeat_interval_ms,
    lastSeq: isSame && state.lastSeq !== null ? state.lastSeq : payload.seq,
    profileVersion: Math.max(payload.profile_version, isSame ? state.profileVersion : 0),
    conversations: Object.fromEntries(Object.entries(kept).map(([id, one]) => [id, { ...one, thinking: {}, typing: [] }])),
  };
}

function unsentOnly(all: State["conversations"]): State["conversations"] {
  const left = Object.values(all).map((one) => ({
    ...one,
    messages: one.messages.filter((message) => message.state === "sending"),
    readSeq: 0,
    hasMore: null,
  }));
  return Object.fromEntries(left.map((one) => [one.id, one]));
}

/** Whether an event of this seq is the next, was there before, or comes behind a hole. */
function place(state: State, seq: number | null): "next" | "old" | "hole" {
  if (seq === null || state.lastSeq === null) return "next";
  if (seq <= state.lastSeq) return "old";
  return seq > state.lastSeq + 1 ? "hole" : "next";
}

function moved(state: State, seq: number | null): State {
  return seq === null || state.lastSeq === null || seq <= state.lastSeq ? state : { ...state, lastSeq: seq };
}

function durable(state: State, envelope: Envelope, seq: number | null): [State, Effect] {
  const where = place(state, seq);
  if (where === "hole") return [state, "resume"];
  // The answer to a repeat comes again, out of its place: news to a client that was started anew.
  const isAnswer = envelope.type === "twin_message";
  if (where === "old" && !(isAnswer && lacks(state, envelope))) return [state, null];
  const next = applied(moved(state, seq), envelope);
  const wantsProfile = envelope.type === "profile_update" && state.profile !== null;
  return [next, wantsProfile ? "profile" : null];
}

function lacks(state: State, { metadata }: Envelope): boolean {
  const here = conversation(state, metadata.conversation_id ?? DEFAULT_CONVERSATION);
  return !here.messages.some((message) => message.id === metadata.message_id);
}

function applied(state: State, envelope: Envelope): State {
  const { metadata } = envelope;
  const id = metadata.conversation_id ?? DEFAULT_CONVERSATION;
  const stamp = { seq: metadata.seq ?? null, timestamp: metadata.timestamp, sessionId: metadata.session_id ?? null };
  switch (envelope.type) {
    case "user_message": {
      const { text } = (envelope as Envelope<"user_message">).payload;
      const own: Message = { ...blank(metadata.message_id, "user"), ...stamp, text, state: "stored" };
      return within(state, id, (here) => put(here, own));
    }
    case "twin_message":
      return within(state, id, (here) => answered(here, envelope as Envelope<"twin_message">, stamp));
    case "feedback": {
      const { payload } = envelope as Envelope<"feedback">;
      return within(state, id, (here) => change(here, payload.message_id, { feedback: payload }));
    }
    case "read_receipt": {
      const { message_id } = (envelope as Envelope<"read_receipt">).payload;
      return within(state, id, (here) => {
        const seq = here.messages.find((message) => message.id === message_id)?.seq ?? 0;
        return seq > here.readSeq ? { ...here, readSeq: seq } : here;
      });
    }
    default: {
      const { version } = (envelope as Envelope<"profile_update">).payload;
      return { ...state, profileVersion: Math.max(version, state.profileVersion) };
    }
  }
}

function answered(here: Conversation, { payload, metadata }: Envelope<"twin_message">, stamp: Partial<Message>): Conversation {
  const inResponseTo = metadata.in_response_to ?? null;
  const answer: Message = {
    ...blank(metadata.message_id, "twin"),
    ...stamp,
    inResponseTo,
    text: payload.text,
    state: payload.status,
    generationId: payload.generation_id,
    model: payload.model,
    usedTraits: payload.used_traits,
    finish: payload.finish ?? null,
    failure: payload.error ?? null,
  };
  const drafts = here.messages.filter((message) => !(message.state === "streaming" && message.inResponseTo === inResponseTo));
  return quiet(put({ ...here, messages: drafts }, answer), inResponseTo);
}

function receipt(state: State, { payload, metadata }: Envelope<"message_received">, seq: number | null): [State, Effect] {
  const id = metadata.conversation_id ?? DEFAULT_CONVERSATION;
  const stored = within(state, id, (here) => {
    const mine = here.messages.find((message) => message.id === payload.message_id);
    if (mine === undefined || (mine.state !== "sending" && mine.state !== "refused")) return here;
    return put(here, { ...mine, state: "stored", seq, timestamp: metadata.timestamp, error: null });
  });
  return place(state, seq) === "hole" ? [stored, "resume"] : [moved(stored, seq), null];
}

function ephemeral(state: State, envelope: Envelope): State {
  const { metadata } = envelope;
  const id = metadata.conversation_id ?? DEFAULT_CONVERSATION;
  switch (envelope.type) {
    case "twin_message_chunk":
      return within(state, id, (here) => streamed(here, envelope as Envelope<"twin_message_chunk">));
    case "twin_thinking": {
      const { payload } = envelope as Envelope<"twin_thinking">;
      const about = metadata.in_response_to ?? "";
      return within(state, id, (here) => {
        if (payload.state === "done") return quiet(here, about);
        return { ...here, thinking: { ...here.thinking, [about]: payload.state } };
      });
    }
    case "typing_indicator": {
      const { is_typing } = (envelope as Envelope<"typing_indicator">).payload;
      const who = metadata.session_id ?? "";
      return within(state, id, (here) => {
        const others = here.typing.filter((one) => one !== who);
        return { ...here, typing: is_typing ? [...others, who] : others };
      });
    }
    case "presence":
      return { ...state, sessions: (envelope as Envelope<"presence">).payload.sessions };
    case "history":
      return paged(state, (envelope as Envelope<"history">).payload);
    case "conversations":
      return { ...state, list: (envelope as Envelope<"conversations">).payload.conversations };
    case "profile": {
      const { version, traits } = (envelope as Envelope<"profile">).payload;
      return { ...state, profile: { version, traits }, profileVersion: Math.max(version, state.profileVersion) };
    }
    case "server_draining":
      return { ...state, connection: "draining" };
    case "error": {
      const error = (envelope as Envelope<"error">).payload;
      const about = metadata.in_response_to;
      if (about == null || metadata.conversation_id == null) return state;
      return within(state, id, (here) => change(here, about, { error }));
    }
    default:
      return state;
  }
}

function streamed(here: Conversation, { payload, metadata }: Envelope<"twin_message_chunk">): Conversation {
  const inResponseTo = metadata.in_response_to ?? null;
  const { generation_id: generation, chunk_index: index, first_chunk_index: first, text } = payload;
  if (here.messages.some((one) => one.generationId === generation && one.state !== "streaming")) return here; // it is over
  const draft = here.messages.find((one) => one.state === "streaming" && one.inResponseTo === inResponseTo);
  const isMerged = first === 0 || (index === 0 && first == null);
  if (draft !== undefined && draft.generationId === generation) {
    const next = (draft as Draft).next;
    if (isMerged && index + 1 >= next && index > 0) return put(here, { ...draft, text, next: index + 1 } as Draft);
    return index === next ? put(here, { ...draft, text: draft.text + text, next: index + 1 } as Draft) : here;
  }
  // Another generation takes the place of an earlier one; into the middle of one nobody can come.
  if (!isMerged) return here;
  const others = here.messages.filter((one) => one !== draft);
  const begun: Draft = {
    ...blank(`generation-${generation}`, "twin"),
    text,
    state: "streaming",
    inResponseTo,
    generationId: generation,
    sessionId: metadata.session_id ?? null,
    next: index + 1,
  };
  return put({ ...here, messages: others }, begun);
}

/** A message that is being written; `next` is the index of the chunk that it waits for. */
interface Draft extends Message {
  readonly next: number;
}

function paged(state: State, page: HistoryPagePayload): State {
  return within(state, page.conversation_id, (here) => {
    const first = here.messages.find((message) => message.seq !== null)?.seq ?? Infinity;
    const isOlder = page.messages.length === 0 || (page.messages[0]?.seq ?? 0) <= first;
    const filled = page.messages.reduce((into, line) => put(into, fromLine(line)), here);
    return { ...filled, hasMore: isOlder || here.hasMore === null ? page.has_more : here.hasMore };
  });
}

function fromLine(line: HistoryMessage): Message {
  return {
    ...blank(line.message_id, line.role),
    text: line.text,
    state: line.role === "twin" ? (line.status ?? "complete") : "stored",
    seq: line.seq,
    timestamp: line.timestamp,
    inResponseTo: line.in_response_to ?? null,
    sessionId: line.session_id ?? null,
    generationId: line.generation_id ?? null,
    model: line.model ?? null,
    usedTraits: line.used_traits ?? [],
    feedback: line.feedback ?? null,
    finish: line.finish ?? null,
    failure: line.error ?? null,
  };
}

// -- small changes ----------------------------------------------------------------------------------------------------

function blank(id: string, role: Message["role"]): Message {
  return {
    id,
    role,
    text: "",
    state: "stored",
    seq: null,
    timestamp: null,
    inResponseTo: null,
    sessionId: null,
    generationId: null,
    model: null,
    usedTraits: [],
    feedback: null,
    finish: null,
    failure: null,
    error: null,
  };
}

function within(state: State, id: string, change: (here: Conversation) => Conversation): State {
  const here = conversation(state, id);
  const changed = change(here);
  return changed === here ? state : { ...state, conversations: { ...state.conversations, [id]: changed } };
}

function change(here: Conversation, id: string, fields: Partial<Message>): Conversation {
  const known = here.messages.find((message) => message.id === id);
  return known === undefined ? here : put(here, { ...known, ...fields });
}

/** The message in its place: by seq, then what is being written, then what is not stored yet; both as they came. */
function put(here: Conversation, message: Message): Conversation {
  const at = here.messages.findIndex((one) => one.id === message.id);
  const known = here.messages[at];
  if (known !== undefined && rank(known) === rank(message)) {
    return { ...here, messages: here.messages.map((one, index) => (index === at ? message : one)) };
  }
  const others = at < 0 ? here.messages : here.messages.filter((one) => one.id !== message.id);
  let index = others.length;
  while (index > 0 && rank(others[index - 1] as Message) > rank(message)) index -= 1;
  return { ...here, messages: [...others.slice(0, index), message, ...others.slice(index)] };
}

function rank(message: Message): number {
  return message.seq ?? (message.state === "streaming" ? Number.MAX_SAFE_INTEGER - 1 : Number.MAX_SAFE_INTEGER);
}

function quiet(here: Conversation, about: string | null): Conversation {
  if (about === null || !(about in here.thinking)) return here;
  const { [about]: _, ...left } = here.thinking;
  return { ...here, thinking: left };
}
