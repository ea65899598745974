/** What the app on this device does for the twin: its tools are offered, called, and each call is run once. */
import type { HostTool, ToolCallPayload, ToolResult } from "./protocol.js";
import { asSent, newId } from "./wire.js";

export interface HostToolCall {
  /** The same for every time that this call comes: also a key by which what the tool does can be done once. */
  readonly callId: string;
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  /** Aborted when the twin waits no longer. */
  readonly signal: AbortSignal;
}

/** What it gives, or resolves to, is the tool's output, as JSON has it; what it throws is told the twin as text. */
export type RunTool = (call: HostToolCall) => unknown;

/** What it needs of the client whose it is. */
export interface Results {
  /** Send it until the server has it; again under the same id, it has no second effect. */
  send(result: ToolResult, id: string): void;
  /** Whether the result of this call is kept, to be sent. */
  has(callId: string): boolean;
  /** The session that the calls are of. */
  readonly sessionId: string;
}

const KEY = "twin-sio-calls";
const CALLS_KEPT = 100;
const ERROR_MAX = 2_000;
const UNKNOWN = "The app was closed while this was done: whether it was done is not known.";

export class HostTools {
  readonly #results: Results;
  readonly #offers = new Set<{ tools: readonly HostTool[]; run: RunTool }>();
  // The calls of this page, with what was sent for those that have ended.
  readonly #calls = new Map<string, { id: string; result: ToolResult | null }>();

  constructor(results: Results) {
    this.#results = results;
  }

  /** Whether anything was ever offered: who offers nothing need not say so. */
  isUsed = false;

  /** All that is offered; of two tools with one name the later. */
  get offered(): HostTool[] {
    return [...new Map([...this.#offers].flatMap(({ tools }) => tools.map((tool) => [tool.name, tool]))).values()];
  }

  add(tools: readonly HostTool[], run: RunTool): () => void {
    const offer = { tools, run };
    this.isUsed = true;
    this.#offers.add(offer);
    return () => void this.#offers.delete(offer);
  }

  /** The twin calls a tool; where the call comes again, its result alone is sent again. */
  take(call: ToolCallPayload): void {
    const { call_id: callId } = call;
    const known = this.#calls.get(callId);
    if (known?.result) return this.#results.send(known.result, known.id);
    if (known || this.#results.has(callId)) return;
    if (callId in this.#begun) return this.#end(callId, { call_id: callId, error: UNKNOWN });
    this.#calls.set(callId, { id: newId(), result: null });
    this.#begun = { ...this.#begun, [callId]: false };
    void this.#run(call);
  }

  /** What an earlier page of this session has begun, and not ended, the twin need not wait for. */
  giveUp(): void {
    for (const [callId, isEnded] of Object.entries(this.#begun)) {
      if (!isEnded && !this.#calls.has(callId)) this.#end(callId, { call_id: callId, error: UNKNOWN });
    }
  }

  async #run({ call_id: callId, name, arguments: given, timeout_ms }: ToolCallPayload): Promise<void> {
    const offer = [...this.#offers].filter(({ tools }) => tools.some((tool) => tool.name === name)).at(-1);
    try {
      if (!offer) throw new Error("This app offers no such tool.");
      const output = await offer.run({ callId, name, arguments: given, signal: AbortSignal.timeout(timeout_ms) });
      const checked = asSent<ToolResult>({ call_id: callId, output: (output ?? null) as NonNullable<ToolResult["output"]> });
      if ("error" in checked) throw new Error(checked.error.message);
      this.#end(callId, checked.payload);
    } catch (error) {
      this.#end(callId, { call_id: callId, error: textOf(error) });
    }
  }

  #end(callId: string, result: ToolResult): void {
    const { id } = this.#calls.get(callId) ?? { id: newId() };
    this.#calls.delete(callId);
    this.#calls.set(callId, { id, result });
    this.#begun = { ...this.#begun, [callId]: true };
    const [oldest] = this.#calls.keys();
    if (this.#calls.size > CALLS_KEPT && oldest !== undefined) this.#calls.delete(oldest);
    this.#results.send(result, id);
  }

  /** The calls that this session has begun, also before the page was reloaded, and whether they have ended. */
  get #begun(): Readonly<Record<string, boolean>> {
    try {
      return JSON.parse(sessionStorage.getItem(`${KEY}:${this.#results.sessionId}`) ?? "{}") as Record<string, boolean>;
    } catch {
      return {};
    }
  }

  set #begun(calls: Readonly<Record<string, boolean>>) {
    try {
      const newest = Object.entries(calls).slice(-CALLS_KEPT);
      sessionStorage.setItem(`${KEY}:${this.#results.sessionId}`, JSON.stringify(Object.fromEntries(newest)));
    } catch {
      // No storage: a page that is reloaded does not know.
    }
  }
}

function textOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\p{Surrogate}|\0/gu, "").slice(0, ERROR_MAX) || "It failed.";
}
