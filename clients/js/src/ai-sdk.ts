/**
 * A `ChatTransport` for `useChat` of the Vercel AI SDK (`ai` 7): the chat's id is the conversation's.
 *
 * The SDK asks, and is not told: what other devices say, and an answer that goes on because another device has decided,
 * `useLiveChat` of `@twin-sio/client/ai-sdk/react` brings into it.
 */
import type { ChatTransport } from "ai";
import { untilAnswered } from "./asking.js";
import type { SendOptions, TwinClient } from "./client.js";
import type { Conversation } from "./conversation.js";
import { conversation } from "./state.js";
import { answerStream, type Stream } from "./ai-stream.js";
import type { TwinUIMessage } from "./ai-messages.js";
import { TwinError } from "./wire.js";

export { answerId, uiMessages, type TwinData, type TwinMetadata, type TwinUIMessage } from "./ai-messages.js";

type Transport = ChatTransport<TwinUIMessage>;
type Asked = Parameters<Transport["sendMessages"]>[0];

/** What `body` of `sendMessage(message, { body })` may hold. */
export type TwinBody = Pick<SendOptions, "mode" | "context">;

export class TwinChatTransport implements Transport {
  readonly resumeStreamIsReplay = true;
  readonly client: TwinClient;
  // The id of a message that was edited, in place of the one that the SDK goes on using.
  readonly #edited = new Map<string, string>();
  readonly #streams = new Map<string, number>();
  #resumes = 0;

  constructor(client: TwinClient) {
    this.client = client;
  }

  /** Say the last message, answer it anew, or send what was decided on its answer's calls. Aborting stops the answer. */
  sendMessages: Transport["sendMessages"] = async ({ trigger, chatId, messages, body, abortSignal }) => {
    const onEnd = this.#begun(chatId);
    try {
      const isAnew = trigger === "regenerate-message";
      const { about, receipt } = isAnew ? this.#regenerate(chatId, messages) : { about: this.#submit(chatId, messages, body) };
      abortSignal?.addEventListener("abort", () => this.#stop(about));
      return this.#stream(chatId, about, isAnew, onEnd, receipt);
    } catch (error) {
      onEnd();
      throw error;
    }
  };

  /** The answer that is being made, from its beginning; null where there is none, or where it is streamed already. */
  reconnectToStream: Transport["reconnectToStream"] = async ({ chatId, abortSignal }) => {
    const resume = (this.#resumes += 1);
    const here = await this.#loaded(chatId, () => !abortSignal?.aborted);
    const about = here && running(here);
    if (!about || this.isStreaming(chatId) || abortSignal?.aborted) return null;
    // The SDK also aborts where it asks anew, as React's strict mode has it do: that is no wish to stop.
    abortSignal?.addEventListener("abort", () => queueMicrotask(() => resume === this.#resumes && this.#stop(about)));
    return this.#stream(chatId, about, true, this.#begun(chatId));
  };

  /** Whether an answer is streamed into this chat. */
  isStreaming(chatId: string): boolean {
    return (this.#streams.get(chatId) ?? 0) > 0;
  }

  #begun(chatId: string): () => void {
    const count = (by: number): unknown => this.#streams.set(chatId, (this.#streams.get(chatId) ?? 0) + by);
    count(1);
    return () => void count(-1);
  }

  #stream(conversationId: string, about: string, isAnew: boolean, onEnd: () => void, receipt?: Promise<unknown>): Stream {
    const { messages } = conversation(this.client.state, conversationId);
    const finished = messages.filter((one) => one.role === "twin" && one.inResponseTo === about && one.state !== "streaming");
    const without = new Set(isAnew ? finished.map((one) => one.id) : []);
    return answerStream({ client: this.client, conversationId, about, without, onEnd, receipt });
  }

  #submit(conversationId: string, messages: readonly TwinUIMessage[], body: Asked["body"]): string {
    const last = messages.at(-1);
    if (last?.role === "assistant") return this.#decide(conversationId, last);
    const said = last?.parts.filter((one) => one.type === "text").map((one) => one.text);
    if (!last || !said?.length || said.length < last.parts.length) throw refusal("Only text can be sent.");
    const { mode, context } = (body ?? {}) as TwinBody;
    const isKnown = conversation(this.client.state, conversationId).messages.some((one) => one.id === last.id);
    const { id } = this.client.send(said.join("\n"), { conversationId, mode, context, ...(isKnown ? {} : { id: last.id }) });
    if (isKnown) this.#edited.set(last.id, id);
    return id;
  }

  #regenerate(conversationId: string, messages: readonly TwinUIMessage[]): { about: string; receipt: Promise<unknown> } {
    const asked = messages.filter((one) => one.role === "user").at(-1);
    if (!asked) throw refusal("There is no message to answer anew.");
    const about = this.#edited.get(asked.id) ?? asked.id;
    return { about, receipt: this.client.regenerate(about, conversationId).receipt };
  }

  /** What was decided in this message, as far as the service does not know it yet. */
  #decide(conversationId: string, { id, parts }: TwinUIMessage): string {
    const { approvals } = conversation(this.client.state, conversationId);
    for (const part of parts) {
      if (part.type !== "dynamic-tool" || part.state !== "approval-responded") continue;
      const { approval } = part;
      const known = approvals.find((one) => one.id === approval.id);
      if (!known || known.decision !== null || known.sending !== null) continue;
      this.client.approve(known.id, approval.approved ? "approve" : "reject", { comment: approval.reason });
    }
    return id.replace(/^answer-/, "");
  }

  #stop(about: string): void {
    this.client.stop(about).catch(() => undefined); // it has ended meanwhile, or so has the connection
  }

  /** The conversation, once its newest page is there; null where the session ends before. */
  async #loaded(conversationId: string, isWanted: () => boolean): Promise<Conversation | null> {
    const load = async (): Promise<unknown> => {
      return conversation(this.client.state, conversationId).hasMore === null && this.client.history({ conversationId });
    };
    try {
      await untilAnswered(this.client, load, isWanted);
    } catch {
      return null;
    }
    return conversation(this.client.state, conversationId);
  }
}

/** The message whose answer is being made and does not wait for the user; the first of them. */
export function running(here: Conversation): string | null {
  const waits = (about: string): boolean => here.approvals.some((one) => one.inResponseTo === about && one.decision === null && one.sending === null);
  const draft = here.messages.find((one) => one.state === "streaming")?.inResponseTo;
  const thought = Object.entries(here.thinking).sort(([, a], [, b]) => Number(a === "queued") - Number(b === "queued"))[0]?.[0];
  const last = here.messages.at(-1);
  const isUnanswered = last?.role === "user" && last.state !== "refused";
  const about = draft ?? thought ?? (isUnanswered ? last.id : null);
  return about == null || waits(about) ? null : about;
}

function refusal(message: string): TwinError {
  return new TwinError({ code: "invalid_message", message, retryable: false });
}
