/** An answer as a stream of the Vercel AI SDK: what has changed of it since, or, where that is no addition, all anew. */
import type { DynamicToolUIPart, UIMessageChunk } from "ai";
import type { TwinClient } from "./client.js";
import { answerTo } from "./conversation.js";
import { conversation, type State } from "./state.js";
import { answerId, answerOf, metadataOf, partsOf, type Answer, type Part, type TwinMetadata } from "./ai-messages.js";
import { TwinError } from "./wire.js";

type Chunk = UIMessageChunk<TwinMetadata, { step: unknown }>;
export type Stream = ReadableStream<Chunk>;

/** Which answer is streamed: that to the message `about`, without those `without` (which were there before). */
export interface Wanted {
  readonly client: Pick<TwinClient, "state" | "subscribe">;
  readonly conversationId: string;
  readonly about: string;
  readonly without?: ReadonlySet<string> | undefined;
  /** Of the wish for it: where that is refused, so is the stream. */
  readonly receipt?: Promise<unknown> | undefined;
  /** Called once: it has ended, or nobody reads it any more. */
  readonly onEnd?: () => void;
}

/** It ends with the answer, or where the user has to decide; it fails with a `TwinError`. */
export function answerStream({ client, conversationId, about, without, receipt, onEnd }: Wanted): Stream {
  let unsubscribe = (): unknown => undefined;
  let isEnded = false;
  const stop = (): void => {
    unsubscribe();
    if (!isEnded) onEnd?.();
    isEnded = true;
  };
  return new ReadableStream<Chunk>({
    start(controller) {
      const writer = new Writer(about, (chunk) => controller.enqueue(chunk));
      const look = (): void => {
        try {
          if (!isOver(writer, client.state, { conversationId, about, without })) return;
          controller.close();
        } catch (error) {
          controller.error(error);
        }
        stop();
      };
      unsubscribe = client.subscribe(look);
      look();
      receipt?.catch((error: unknown) => {
        if (isEnded) return;
        controller.error(error);
        stop();
      });
    },
    cancel: stop,
  });
}

function isOver(writer: Writer, state: State, { conversationId, about, without }: Pick<Wanted, "conversationId" | "about" | "without">): boolean {
  const here = conversation(state, conversationId);
  const asked = here.messages.find((one) => one.id === about);
  if (asked?.state === "refused" && asked.error) throw new TwinError(asked.error);
  const answer = answerOf(here, about, without);
  if (answer.isVisible) writer.show(answer);
  if (answer.message) {
    writer.finish(answer);
    const { failure } = answer.message;
    if (answer.message.state !== "failed") return true;
    throw new TwinError({ message: "The answer failed.", retryable: false, ...asked?.error, code: failure ?? asked?.error?.code ?? "internal" });
  }
  if (answer.isWaiting) {
    writer.finish(answer);
    return true;
  }
  // Taken in by the answer to another message: this one has none of its own.
  if (answerTo(here, about)?.steeredBy.includes(about)) return true;
  if (state.connection === "refused" || state.connection === "ended" || state.connection === "closed") {
    throw new TwinError({ code: "closed", message: `The session is ${state.connection}.`, retryable: false, ...state.reason });
  }
  return false;
}

/** Writes what is new of an answer's parts. */
class Writer {
  readonly #about: string;
  readonly #write: (chunk: Chunk) => void;
  #parts: readonly Part[] = [];

  constructor(about: string, write: (chunk: Chunk) => void) {
    this.#about = about;
    this.#write = write;
  }

  show(answer: Answer): void {
    const parts = partsOf(answer);
    if (this.#parts.length === 0) this.#begin(answer);
    else if (!isAddition(this.#parts, parts)) this.#reset();
    parts.forEach((part, index) => this.#put(String(index), this.#parts[index], part));
    this.#parts = parts;
  }

  finish(answer: Answer): void {
    this.show(answer);
    this.#end();
    const cut = { length: "length", content_filter: "content-filter" } as const;
    const { message } = answer;
    const finishReason = message === null ? "tool-calls" : message.finish ? cut[message.finish] : message.state === "complete" ? "stop" : "other";
    this.#write({ type: "finish", finishReason, messageMetadata: metadataOf(answer) });
  }

  /** What was there of the answer before, in this message, is put in its place. */
  #begin(answer: Answer): void {
    this.#write({ type: "start", messageId: answerId(this.#about), messageMetadata: metadataOf(answer) });
    this.#write({ type: "reset-step" });
    this.#write({ type: "start-step" });
  }

  #reset(): void {
    this.#end();
    this.#parts = [];
    this.#write({ type: "reset-step" });
  }

  #put(id: string, before: Part | undefined, part: Part): void {
    if (part === before || part.type === "step-start") return;
    if (part.type === "text" || part.type === "reasoning") {
      const from = before?.type === part.type ? before.text : null;
      if (from === null) this.#write({ type: `${part.type}-start`, id });
      if (part.text.length > (from?.length ?? 0)) this.#write({ type: `${part.type}-delta`, id, delta: part.text.slice(from?.length ?? 0) });
    } else if (part.type === "data-step") this.#write({ type: "data-step", id: part.data.step_id, data: part.data });
    else if (part.type === "dynamic-tool") for (const chunk of ofTool(part, before?.type === part.type ? before : undefined)) this.#write(chunk);
  }

  #end(): void {
    this.#parts.forEach((part, index) => {
      if (part.type === "text" || part.type === "reasoning") this.#write({ type: `${part.type}-end`, id: String(index) });
    });
  }
}

/** Whether the new parts are the old ones and more: the SDK only adds to what it has. */
function isAddition(before: readonly Part[], parts: readonly Part[]): boolean {
  return before.every((one, index) => {
    const now = parts[index];
    if (one.type !== now?.type) return false;
    if (one.type === "text" || one.type === "reasoning") return (now as typeof one).text.startsWith(one.text);
    if (one.type === "data-step") return one.id === (now as typeof one).id;
    if (one.type !== "dynamic-tool") return true;
    const tool = now as DynamicToolUIPart;
    return one.toolCallId === tool.toolCallId && (one.approval === undefined || one.approval.id === tool.approval?.id);
  });
}

function* ofTool(part: DynamicToolUIPart, before: DynamicToolUIPart | undefined): Generator<Chunk> {
  const { toolCallId, toolName, title, input, approval } = part;
  if (before && JSON.stringify(before) === JSON.stringify(part)) return;
  if (!before || JSON.stringify(before.input) !== JSON.stringify(input)) {
    yield { type: "tool-input-available", toolCallId, toolName, input, dynamic: true, providerExecuted: true, ...(title ? { title } : {}) };
  }
  if (approval && !before?.approval) yield { type: "tool-approval-request", approvalId: approval.id, toolCallId };
  if (approval?.approved !== undefined && before?.approval?.approved === undefined) {
    yield { type: "tool-approval-response", approvalId: approval.id, approved: approval.approved, ...(approval.reason ? { reason: approval.reason } : {}) };
  }
  if (part.state === "output-available") yield { type: "tool-output-available", toolCallId, output: part.output, dynamic: true, providerExecuted: true };
  if (part.state === "output-error") yield { type: "tool-output-error", toolCallId, errorText: part.errorText, dynamic: true, providerExecuted: true };
  if (part.state === "output-denied") yield { type: "tool-output-denied", toolCallId };
}
