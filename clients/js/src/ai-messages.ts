/** A conversation as the Vercel AI SDK has it: messages of parts. Pure, and of the SDK only its types. */
import type { DynamicToolUIPart, UIMessage } from "ai";
import type { Approval, Conversation, Message } from "./conversation.js";
import type { Step } from "./protocol.js";

/** What the SDK has no place for. */
export interface TwinMetadata {
  /** The id that the service knows the message by: for `client.feedback` and the like. */
  readonly messageId: string;
  readonly state: Message["state"] | "waiting";
  readonly timestamp: string | null;
  readonly seq: number | null;
  readonly sessionId: string | null;
  readonly model: string | null;
  readonly usedTraits: readonly string[];
  readonly finish: Message["finish"];
  /** The code of why it failed, or was refused. */
  readonly failure: string | null;
  readonly steeredBy: readonly string[];
  readonly stoppedBy: string | null;
}

/** A step that is no tool's: a node of the agent's graph. */
export type TwinData = { step: Step };

export type TwinUIMessage = UIMessage<TwinMetadata, TwinData>;
export type Part = TwinUIMessage["parts"][number];

/** What is known of the answer to a message, whether it is finished or not. */
export interface Answer {
  readonly about: string;
  /** The finished answer. */
  readonly message: Message | null;
  readonly text: string;
  readonly reasoning: string;
  readonly steps: readonly Step[];
  readonly approvals: readonly Approval[];
  /** Whether it goes on only when the user has decided. */
  readonly isWaiting: boolean;
  /** Whether something of it can be shown. */
  readonly isVisible: boolean;
}

/** The answer to this message, without those that are left out by their ids. */
export function answerOf(here: Conversation, about: string, without: ReadonlySet<string> = NONE): Answer {
  const answers = here.messages.filter((one) => one.role === "twin" && one.inResponseTo === about && !without.has(one.id));
  const draft = answers.find((one) => one.state === "streaming");
  const message = draft ? null : (answers.at(-1) ?? null);
  const approvals = here.approvals.filter((one) => one.inResponseTo === about && one.seq > (message?.seq ?? 0));
  const isMade = message === null || approvals.length > 0;
  const steps = isMade ? (here.activity[about] ?? []) : message.steps;
  const shown = isMade ? { text: draft?.text ?? "", reasoning: here.reasoning[about]?.text ?? "" } : { text: message.text, reasoning: message.reasoning ?? "" };
  const isBusy = steps.some((one) => one.state === "started" || one.state === "progress");
  const isWaiting = isMade && !isBusy && approvals.some((one) => one.decision === null && one.sending === null);
  const isVisible = Boolean(!isMade || shown.text || shown.reasoning || steps.length || approvals.length);
  return { about, message: isMade ? null : message, ...shown, steps, approvals, isWaiting, isVisible };
}

const NONE: ReadonlySet<string> = new Set();

/** The id of all answers to a message: of alternatives one is shown at a time. */
export const answerId = (about: string): string => `answer-${about}`;

/** The conversation for `useChat({ messages })`: of each message the newest answer, also while it is made or waits. */
export function uiMessages(here: Conversation): TwinUIMessage[] {
  const shown = new Set<string>();
  const list: TwinUIMessage[] = [];
  const show = (about: string): void => {
    if (shown.has(about)) return;
    shown.add(about);
    const answer = answerOf(here, about);
    if (answer.isVisible) list.push({ id: answerId(about), role: "assistant", metadata: metadataOf(answer), parts: partsOf(answer) });
  };
  for (const message of here.messages) {
    if (message.role === "user") list.push({ id: message.id, role: "user", metadata: ofMessage(message), parts: [{ type: "text", text: message.text }] });
    else show(message.inResponseTo ?? message.id);
  }
  for (const { inResponseTo } of here.approvals) show(inResponseTo);
  for (const about of [...Object.keys(here.activity), ...Object.keys(here.reasoning)]) show(about);
  return list;
}

export function metadataOf({ about, message, isWaiting }: Answer): TwinMetadata {
  if (message) return ofMessage(message);
  const [messageId, state] = [answerId(about), isWaiting ? ("waiting" as const) : ("streaming" as const)];
  return { messageId, state, timestamp: null, seq: null, sessionId: null, model: null, usedTraits: [], finish: null, failure: null, steeredBy: [], stoppedBy: null };
}

function ofMessage({ id: messageId, failure, error, ...rest }: Message): TwinMetadata {
  const { state, timestamp, seq, sessionId, model, usedTraits, finish, steeredBy, stoppedBy } = rest;
  return { messageId, state, timestamp, seq, sessionId, model, usedTraits, finish, failure: failure ?? error?.code ?? null, steeredBy, stoppedBy };
}

/** The parts in their order: what was thought, what was done, what is said. */
export function partsOf(answer: Answer): Part[] {
  const state = answer.message ? "done" : "streaming";
  const parts: Part[] = [{ type: "step-start" }];
  if (answer.reasoning) parts.push({ type: "reasoning", text: answer.reasoning, state: answer.text ? "done" : state });
  const decided = new Map(answer.approvals.map((one) => [one.callId, one]));
  for (const step of answer.steps) {
    if (step.kind === "tool") parts.push(ofTool(step, decided.get(step.step_id)));
    else parts.push({ type: "data-step", id: step.step_id, data: step });
  }
  const known = new Set(answer.steps.map((one) => one.step_id));
  for (const approval of answer.approvals) if (!known.has(approval.callId)) parts.push(ofTool(waiting(approval), approval));
  if (answer.text) parts.push({ type: "text", text: answer.text, state });
  return parts;
}

function waiting({ callId, tool, title }: Approval): Step {
  return { step_id: callId, kind: "tool", name: tool, title, state: "waiting" };
}

const FAILURES = { failed: "It failed.", unknown: "Whether it was done is not known." };

/** A tool's call. The twin runs it, so that the SDK does not wait for the app to do so. */
function ofTool(step: Step, approval: Approval | undefined): DynamicToolUIPart {
  const { step_id: toolCallId, name: toolName, title, state, summary } = step;
  const call = { type: "dynamic-tool" as const, toolCallId, toolName, title, providerExecuted: true, input: approval?.arguments ?? {} };
  const decision = approval?.decision ?? approval?.sending ?? null;
  const isApproved = decision === "approve" || decision === "edit";
  const response = approval && decision ? { id: approval.id, ...(approval.comment ? { reason: approval.comment } : {}) } : null;
  const approved = response && isApproved ? { approval: { ...response, approved: true as const } } : {};
  if (state === "failed" || state === "unknown") {
    if (response && !isApproved) return { ...call, state: "output-denied", approval: { ...response, approved: false } };
    return { ...call, state: "output-error", errorText: summary ?? FAILURES[state], ...approved };
  }
  if (state === "done") return { ...call, state: "output-available", output: summary ?? null, ...approved };
  if (response) return { ...call, state: "approval-responded", approval: { ...response, approved: isApproved } };
  if (approval) return { ...call, state: "approval-requested", approval: { id: approval.id } };
  return { ...call, state: "input-available" };
}
