/**
 * What a client knows, envelope by envelope. Pure: no socket, no clock, no storage; every state is frozen in practice,
 * a change makes a new one, and what has not changed keeps its identity (good for React).
 *
 * The rules of the protocol that everything here serves:
 * - durable events carry a `seq` and are applied in its order, each once; a hole asks for `resume`;
 * - chunks are joined by their index within a generation; the text of `twin_message` has the last word;
 * - what the user says is shown at once and is `sending` until the server says that it is stored.
 */
import {
  acted,
  answered,
  blank,
  blankConversation,
  change,
  paged,
  put,
  quiet,
  requested,
  resolved,
  streamed,
  thought,
  withApproval,
  type Approval,
  type Conversation,
  type Message,
} from "./conversation.js";
import type { Approval as Decided, ConversationLine, Envelope, ErrorPayload, FeedbackPayload, SessionEntry, SessionLimits, Trait } from "./protocol.js";

export type Connection = "connecting" | "online" | "offline" | "draining" | "refused" | "ended" | "closed";

export interface State {
  readonly connection: Connection;
  /** Why it is refused, ended or offline, as far as that is known; null while all is well. Beside the protocol's codes:
   * `token_failed` (`getToken` threw, or gave nothing) and `unreachable` (no answer; a browser does not tell a service
   * that is down from one that refuses the page's origin): both are tried again. Where `ended`, `replaced`, `revoked`, `erased`,
   * or `ended`, which says no more. */
  readonly reason: { readonly code: string; readonly message: string } | null;
  readonly userId: string | null;
  readonly sessionId: string;
  /** Everybody's live sessions, one's own included. */
  readonly sessions: readonly SessionEntry[];
  readonly limits: SessionLimits | null;
  readonly heartbeatMs: number;
  /** The newest seq that was applied; null until the server has said where the log stands. */
  readonly lastSeq: number | null;
  /** How often all that the user had was erased. */
  readonly epoch: number;
  readonly conversations: Readonly<Record<string, Conversation>>;
  /** The last result of `conversations()`, whole; null while it was not asked. */
  readonly list: readonly ConversationLine[] | null;
  readonly profile: { readonly version: number; readonly traits: readonly Trait[] } | null;
  readonly profileVersion: number;
  /** What waits to be stored by the server. */
  readonly unsent: number;
}

const DURABLE = new Set<string>(["user_message", "twin_message", "feedback", "read_receipt", "profile_update"]);

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
    epoch: 0,
    conversations: {},
    list: null,
    profile: null,
    profileVersion: 0,
    unsent: 0,
  };
}

export function conversation(state: State, id: string): Conversation {
  return state.conversations[id] ?? blankConversation(id);
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

/** A decision of one's own, before the server has it. */
export function decided(state: State, { approval_id: id, decision }: Decided): State {
  return withinApproval(state, id, (one) => (one.decision === null ? { ...one, sending: decision } : one));
}

/** The server has a decision of one's own; how it was decided comes to every device, here it is known already. */
export function decisionStored(state: State, { approval_id: id, decision, arguments: edited, comment }: Decided): State {
  return withinApproval(state, id, (one) => {
    if (one.decision !== null) return one;
    return { ...one, decision, sending: null, arguments: edited ?? one.arguments, comment: comment ?? null };
  });
}

/** The server does not take a decision of one's own: it was decided before, or there is nothing to decide any more. */
export function decisionRefused(state: State, id: string, { code }: ErrorPayload): State {
  const isOver = code === "already_decided" || code === "not_found";
  return withinApproval(state, id, (one) => (one.decision !== null ? one : isOver ? null : { ...one, sending: null }));
}

function withinApproval(state: State, id: string, change: (one: Approval) => Approval | null): State {
  const where = Object.values(state.conversations).find((one) => one.approvals.some((known) => known.id === id));
  return where ? within(state, where.id, (here) => withApproval(here, id, change)) : state;
}

/** A message that is not this user's to say. */
export function forgotten(state: State, id: string, conversationId: string): State {
  return within(state, conversationId, (here) => ({ ...here, messages: here.messages.filter((one) => one.id !== id) }));
}

/** The server wants it later; null: it does not say so any more. */
export function held(state: State, id: string, conversationId: string, hold: Pick<Message, "heldUntil" | "error"> | null): State {
  return within(state, conversationId, (here) => {
    const mine = here.messages.find((message) => message.id === id);
    if (mine?.state !== "sending" || mine.heldUntil === (hold?.heldUntil ?? null)) return here;
    return put(here, { ...mine, heldUntil: hold?.heldUntil ?? null, error: hold?.error ?? null });
  });
}

/** The server will not take what was sent under this id. */
export function refused(state: State, id: string, conversationId: string, error: ErrorPayload): State {
  return within(state, conversationId, (here) => change(here, id, { state: "refused", error, heldUntil: null }));
}

/** One envelope from the server. */
export function receive(state: State, envelope: Envelope): [State, Effect] {
  const { seq } = envelope.metadata;
  switch (envelope.type) {
    case "session_ready":
      return [ready(state, envelope as Envelope<"session_ready">), null];
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
      // Whatever has a seq counts, also where its type is newer than this client.
      return seq != null || DURABLE.has(envelope.type) ? durable(state, envelope, seq ?? null) : [ephemeral(state, envelope), null];
  }
}

function ready(state: State, { payload, metadata }: Envelope<"session_ready">): State {
  // Where the log began again (the user was erased) all is forgotten with it, but for what is not sent yet.
  const epoch = payload.epoch ?? state.epoch; // an earlier version says nothing of it
  const isTheirs = state.userId === payload.user_id;
  const isSame = state.lastSeq === null || (payload.seq >= state.lastSeq && isTheirs && epoch === state.epoch);
  const known = isSame ? state : unsentOnly(state, isTheirs ? ["sending", "refused"] : ["sending"]);
  return {
    ...known,
    connection: "online",
    reason: null,
    userId: payload.user_id,
    sessionId: metadata.session_id ?? state.sessionId,
    sessions: payload.sessions,
    limits: payload.limits,
    heartbeatMs: payload.heartbeat_interval_ms,
    epoch,
    lastSeq: isSame && state.lastSeq !== null ? state.lastSeq : payload.seq,
    profileVersion: Math.max(payload.profile_version, isSame ? state.profileVersion : 0),
    conversations: Object.fromEntries(Object.entries(known.conversations).map(([id, one]) => [id, { ...one, thinking: {}, typing: [] }])),
  };
}

/** The server has ended the session: it goes on elsewhere, its token was revoked, or all was erased. Nothing that it had is
 * shown any more, as nobody would tell this client of an erasure later; whoever comes back gets what there is. */
export function ended(state: State, reason: State["reason"]): State {
  return { ...unsentOnly(state, ["sending", "refused"]), connection: "ended", reason };
}

/** What the server does not have, and nothing that came from it. */
function unsentOnly(state: State, unsent: readonly Message["state"][]): State {
  const left = Object.values(state.conversations).map((one) => ({
    ...blankConversation(one.id),
    messages: one.messages.filter((message) => unsent.includes(message.state)),
  }));
  return { ...state, profile: null, list: null, conversations: Object.fromEntries(left.map((one) => [one.id, one])) };
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
    case "approval_requested": {
      const { payload } = envelope as Envelope<"approval_requested">;
      const { in_response_to: about, seq } = metadata;
      return within(state, id, (here) => requested(here, payload, { in_response_to: about ?? "", seq: seq ?? 0 }));
    }
    case "approval_resolved":
      return within(state, id, (here) => resolved(here, (envelope as Envelope<"approval_resolved">).payload));
    case "profile_update": {
      const { version } = (envelope as Envelope<"profile_update">).payload;
      return { ...state, profileVersion: Math.max(version, state.profileVersion) };
    }
    default:
      return state;
  }
}

function receipt(state: State, { payload, metadata }: Envelope<"message_received">, seq: number | null): [State, Effect] {
  const id = metadata.conversation_id ?? DEFAULT_CONVERSATION;
  const stored = within(state, id, (here) => {
    const mine = here.messages.find((message) => message.id === payload.message_id);
    if (mine === undefined || (mine.state !== "sending" && mine.state !== "refused")) return here;
    return put(here, { ...mine, state: "stored", seq, timestamp: metadata.timestamp, error: null, heldUntil: null });
  });
  return place(state, seq) === "hole" ? [stored, "resume"] : [moved(stored, seq), null];
}

function ephemeral(state: State, envelope: Envelope): State {
  const { metadata } = envelope;
  const id = metadata.conversation_id ?? DEFAULT_CONVERSATION;
  switch (envelope.type) {
    case "twin_message_chunk":
      return within(state, id, (here) => streamed(here, envelope as Envelope<"twin_message_chunk">));
    case "twin_reasoning_chunk":
      return within(state, id, (here) => thought(here, envelope as Envelope<"twin_reasoning_chunk">));
    case "twin_activity":
      return within(state, id, (here) => acted(here, envelope as Envelope<"twin_activity">));
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
      return within(state, (envelope as Envelope<"history">).payload.conversation_id, (here) => paged(here, (envelope as Envelope<"history">).payload));
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

function within(state: State, id: string, change: (here: Conversation) => Conversation): State {
  const here = conversation(state, id);
  const changed = change(here);
  return changed === here ? state : { ...state, conversations: { ...state.conversations, [id]: changed } };
}
