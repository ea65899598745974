/** One conversation as it is shown, and every change to it. Pure: a change makes a new one, the rest keeps its identity. */
import type {
  ApprovalRequestedPayload,
  ApprovalResolvedPayload,
  Envelope,
  ErrorPayload,
  FeedbackPayload,
  HistoryMessage,
  HistoryPagePayload,
  PendingApproval,
  Step,
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
  /** Why it was refused, or failed, or is not sent yet. */
  readonly error: ErrorPayload | null;
  /** Of a message that is `sending`: the server does not want it before; `error` says why. */
  readonly heldUntil: string | null;
  /** What was done for a finished answer; of one that is being made see `Conversation.activity`. */
  readonly steps: readonly Step[];
  /** What the model thought before a finished answer, where that is shown; see also `Conversation.reasoning`. */
  readonly reasoning: string | null;
  /** The user's messages that the answer took in while it was made: they have no other answer. */
  readonly steeredBy: readonly string[];
  /** The user's message that ended the answer. */
  readonly stoppedBy: string | null;
}

export type Decision = "approve" | "reject" | "edit";

/** A tool's call that waits for the user, or was decided and belongs to an answer that is not finished. */
export interface Approval {
  readonly id: string;
  /** Also the `step_id` of its step. */
  readonly callId: string;
  readonly tool: string;
  /** For people. */
  readonly title: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly expiresAt: string;
  /** The user's message whose answer waits. */
  readonly inResponseTo: string;
  readonly seq: number;
  /** How it was decided; null while it waits. */
  readonly decision: Decision | "expired" | "cancelled" | null;
  readonly comment: string | null;
  /** What this client has decided, while the server does not have it. */
  readonly sending: Decision | null;
}

export interface Reasoning {
  readonly generationId: string;
  readonly text: string;
  /** The index of the chunk that it waits for. */
  readonly next: number;
}

export interface Conversation {
  readonly id: string;
  /** As every device shows them: what is stored by seq, then what is being written, then what is not stored yet. */
  readonly messages: readonly Message[];
  /** Where the answer to a user's message stands, by that message's id; `done` is left out. */
  readonly thinking: Readonly<Record<string, "queued" | "recalling" | "thinking">>;
  /** What is done for an answer that is being made, by the user's message. */
  readonly activity: Readonly<Record<string, readonly Step[]>>;
  /** What the model thinks for an answer that is being made, by the user's message. */
  readonly reasoning: Readonly<Record<string, Reasoning>>;
  /** What answers that are being made wait for, and how that was decided, oldest first. */
  readonly approvals: readonly Approval[];
  /** The other sessions that are typing at this moment. */
  readonly typing: readonly string[];
  /** The newest seq that any device has read. */
  readonly readSeq: number;
  /** Whether there is more before the oldest message here; null while no page was asked for. */
  readonly hasMore: boolean | null;
}

export function blankConversation(id: string): Conversation {
  return { id, messages: [], thinking: {}, activity: {}, reasoning: {}, approvals: [], typing: [], readSeq: 0, hasMore: null };
}

/** The answer to a user's message that counts: the newest one, or the one that took the message in while it was made. */
export function answerTo(here: Conversation, messageId: string): Message | undefined {
  const isFinal = (one: Message): boolean => one.role === "twin" && one.state !== "streaming";
  return here.messages.filter((one) => isFinal(one) && (one.inResponseTo === messageId || one.steeredBy.includes(messageId))).at(-1);
}

// -- what was said ----------------------------------------------------------------------------------------------------

/** The whole answer, in the place of all that was known of it while it was made. */
export function answered(here: Conversation, { payload, metadata }: Envelope<"twin_message">, stamp: Partial<Message>): Conversation {
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
    ...made(payload),
  };
  const drafts = here.messages.filter((message) => !(message.state === "streaming" && message.inResponseTo === inResponseTo));
  const ended = over(put({ ...here, messages: drafts }, answer), answer);
  return answer.steeredBy.reduce(quiet, quiet(ended, inResponseTo));
}

/** Nothing is left of what was known of an answer while it was made; of a later one to the same message all is. */
function over(here: Conversation, { inResponseTo: about, seq }: Message): Conversation {
  if (about === null) return here;
  const { activity, reasoning } = here;
  const approvals = here.approvals.filter((one) => one.inResponseTo !== about || one.seq > (seq ?? Infinity));
  return {
    ...here,
    activity: about in activity ? without(activity, about) : activity,
    reasoning: about in reasoning ? without(reasoning, about) : reasoning,
    approvals: approvals.length === here.approvals.length ? here.approvals : approvals,
  };
}

export function streamed(here: Conversation, { payload, metadata }: Envelope<"twin_message_chunk">): Conversation {
  const inResponseTo = metadata.in_response_to ?? null;
  const { generation_id: generation, chunk_index: index, first_chunk_index: first, text } = payload;
  if (isEnded(here, generation)) return here;
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

function isEnded(here: Conversation, generation: string): boolean {
  return here.messages.some((one) => one.generationId === generation && one.state !== "streaming");
}

/** A page of the history, and what answers wait for. */
export function paged(here: Conversation, page: HistoryPagePayload): Conversation {
  const first = here.messages.find((message) => message.seq !== null)?.seq ?? Infinity;
  const isOlder = page.messages.length === 0 || (page.messages[0]?.seq ?? 0) <= first;
  const filled = page.messages.reduce((into, line) => {
    const message = fromLine(line);
    return message.role === "twin" ? over(put(into, message), message) : put(into, message);
  }, here);
  const waiting = (page.approvals ?? []).reduce((into, one) => requested(into, one, one), filled);
  return { ...waiting, hasMore: isOlder || here.hasMore === null ? page.has_more : here.hasMore };
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
    ...made(line),
  };
}

/** How an answer was made, as it is stored. */
function made(from: Pick<HistoryMessage, "steps" | "reasoning" | "steered_by" | "stopped_by">): Partial<Message> {
  const { steps, reasoning, steered_by, stopped_by } = from;
  return { steps: steps ?? [], reasoning: reasoning ?? null, steeredBy: steered_by ?? [], stoppedBy: stopped_by ?? null };
}

// -- while an answer is made ------------------------------------------------------------------------------------------

/** A step begins, or has changed. */
export function acted(here: Conversation, { payload, metadata }: Envelope<"twin_activity">): Conversation {
  const about = metadata.in_response_to ?? "";
  const known = here.activity[about] ?? [];
  const isKnown = known.some((one) => one.step_id === payload.step_id);
  const steps = isKnown ? known.map((one) => (one.step_id === payload.step_id ? payload : one)) : [...known, payload];
  return { ...here, activity: { ...here.activity, [about]: steps } };
}

/** Who comes into the middle of it sees what comes from then on. */
export function thought(here: Conversation, { payload, metadata }: Envelope<"twin_reasoning_chunk">): Conversation {
  const { generation_id: generationId, chunk_index: index, text } = payload;
  if (isEnded(here, generationId)) return here;
  const about = metadata.in_response_to ?? "";
  const known = here.reasoning[about];
  const before = known?.generationId === generationId ? known : { text: "", next: 0 };
  if (index < before.next) return here;
  return { ...here, reasoning: { ...here.reasoning, [about]: { generationId, text: before.text + text, next: index + 1 } } };
}

/** A tool's call waits for the user. */
export function requested(
  here: Conversation,
  payload: ApprovalRequestedPayload,
  { in_response_to: about, seq }: Pick<PendingApproval, "in_response_to" | "seq">,
): Conversation {
  if (here.approvals.some((one) => one.id === payload.approval_id)) return here;
  const approval: Approval = {
    id: payload.approval_id,
    callId: payload.call_id,
    tool: payload.tool,
    title: payload.title,
    arguments: payload.arguments,
    expiresAt: payload.expires_at,
    inResponseTo: about,
    seq,
    decision: null,
    comment: null,
    sending: null,
  };
  return { ...here, approvals: [...here.approvals, approval].sort((a, b) => a.seq - b.seq) };
}

/** It was decided: by a device, by the time, or by the end of the answer. */
export function resolved(here: Conversation, { approval_id, decision, arguments: edited, comment }: ApprovalResolvedPayload): Conversation {
  return withApproval(here, approval_id, (one) => ({
    ...one,
    decision,
    sending: null,
    arguments: edited ?? one.arguments,
    comment: comment ?? null,
  }));
}

export function withApproval(here: Conversation, id: string, change: (one: Approval) => Approval | null): Conversation {
  const known = here.approvals.find((one) => one.id === id);
  if (known === undefined) return here;
  const changed = change(known);
  if (changed === known) return here;
  return { ...here, approvals: here.approvals.flatMap((one) => (one !== known ? [one] : (changed ?? []))) };
}

// -- small changes ----------------------------------------------------------------------------------------------------

export function blank(id: string, role: Message["role"]): Message {
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
    heldUntil: null,
    steps: [],
    reasoning: null,
    steeredBy: [],
    stoppedBy: null,
  };
}

export function change(here: Conversation, id: string, fields: Partial<Message>): Conversation {
  const known = here.messages.find((message) => message.id === id);
  return known === undefined ? here : put(here, { ...known, ...fields });
}

/** The message in its place: by seq, then what is being written, then what is not stored yet; both as they came. */
export function put(here: Conversation, message: Message): Conversation {
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

/** Its answer is not thought of any more. */
export function quiet(here: Conversation, about: string | null): Conversation {
  return about === null || !(about in here.thinking) ? here : { ...here, thinking: without(here.thinking, about) };
}

function without<T>(all: Readonly<Record<string, T>>, key: string): Readonly<Record<string, T>> {
  const { [key]: _, ...left } = all;
  return left;
}
