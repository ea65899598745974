/** What the server is to store: one thing after the other, each until the server has it, or will never take it. */
import type { Approval, ClientEvents, Envelope, ErrorPayload, Feedback, MessageReceivedPayload, ProfileUpdatePayload } from "./protocol.js";
import type { Entry, Outbox, QueuedEvent } from "./outbox.js";
import {
  decided,
  decisionRefused,
  decisionStored,
  DEFAULT_CONVERSATION,
  forgotten,
  held,
  rated,
  refused,
  said,
  type State,
} from "./state.js";
import { asSent, backoff, newId, TwinError } from "./wire.js";

export interface Sent {
  /** The message's id, on every device. */
  readonly id: string;
  /** Settles once the server has stored it (however long that takes), or refuses it (`TwinError`). */
  readonly receipt: Promise<MessageReceivedPayload | ProfileUpdatePayload>;
}

/** What it needs of the client whose it is. */
export interface Line {
  readonly state: State;
  show(state: State): void;
  /** Whether the server has greeted this connection. */
  readonly isOpen: boolean;
  /** Whether the last connection was closed because of what was sent. */
  readonly isNotTaken: boolean;
  /** Once, over the connection that is there; rejects where no answer came. */
  send(entry: Entry): Promise<Envelope>;
}

const TIMES_NOT_TAKEN = 2;
// What an answer waits for goes before what waits for an answer.
const FIRST = new Set<QueuedEvent>(["approval", "tool_result"]);
const ANSWERED = new Set<QueuedEvent>(["user_message", "regenerate"]);

/** What the server wants later: when, and after how many tries. */
interface Hold {
  readonly until: number;
  readonly tries: number;
  readonly error: ErrorPayload;
}

export class Sending {
  readonly #line: Line;
  readonly #outbox: Promise<Outbox>;
  readonly #waiting = new Map<string, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #queue: Entry[] = [];
  #isBusy = false;
  #wake: () => void = ignore;
  #userId: string | null = null;
  readonly #holds = new Map<string, Hold>(); // by what the refusal was about
  // The entry in whose sending the connection was lost: how often, and how often because it was not taken.
  #lost = { id: "", times: 0, notTaken: 0 };

  constructor(line: Line, outbox: Promise<Outbox>) {
    this.#line = line;
    this.#outbox = outbox;
  }

  /** Show it, keep it, and send it until the server has it. */
  add<Name extends QueuedEvent>(name: Name, payload: ClientEvents[Name], where?: string, id = newId()): Sent {
    const { userId } = this.#line.state;
    const entry: Entry<Name> = { id, name, payload, conversationId: where ?? DEFAULT_CONVERSATION, at: nextInstant(), userId };
    const receipt = new Promise<never>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    receipt.catch(ignore); // who does not wait for it sees it in the state
    const kept = this.#enqueue(entry);
    if (kept) void this.#outbox.then((outbox) => outbox.add(kept)).catch(ignore).then(() => this.flush());
    return { id, receipt };
  }

  /** Show it, and have it sent; null for what no server would take, which is refused here. */
  #enqueue(entry: Entry): Entry | null {
    const { id, name, conversationId, payload } = entry;
    const checked = asSent(payload);
    const kept = "error" in checked ? null : { ...entry, payload: checked.payload };
    if (kept) this.#queue.push(kept);
    const state = { ...this.#line.state, unsent: this.#queue.length };
    if (name === "user_message") this.#line.show(said(state, id, conversationId, (payload as ClientEvents["user_message"]).text));
    else if (name === "feedback" && kept) this.#line.show(rated(state, payload as Feedback));
    else this.#line.show(name === "approval" && kept ? decided(state, payload as Approval) : state);
    if ("error" in checked) this.#tell(entry, checked.error);
    else this.#showHolds();
    return kept;
  }

  /** Take up what an earlier page has left. */
  async restore(): Promise<void> {
    const outbox = await this.#outbox;
    for (const entry of await outbox.all().catch(() => [])) {
      if (!this.#takeUp(entry)) void outbox.remove(entry.id).catch(ignore);
    }
  }

  /** Take up what was kept elsewhere; on return it is kept here. */
  async take(entry: Entry): Promise<void> {
    if (this.#takeUp(entry)) await this.#outbox.then((outbox) => outbox.add(entry));
    void this.flush();
  }

  #takeUp(entry: Entry): boolean {
    const isTaken = this.#queue.some((one) => one.id === entry.id) || this.#enqueue(entry) !== null;
    this.#queue.sort((a, b) => a.at - b.at);
    return isTaken;
  }

  /** What somebody else wrote in this tab is not said in this user's name; it waits in the outbox for them. */
  leaveTo(userId: string | null): void {
    if (this.#userId !== userId) this.#holds.clear();
    this.#userId = userId;
    const others = this.#queue.filter((entry) => entry.userId != null && entry.userId !== userId);
    if (others.length === 0) return;
    this.#queue = this.#queue.filter((entry) => !others.includes(entry));
    const state = others.reduce((into, entry) => forgotten(into, entry.id, entry.conversationId), this.#line.state);
    this.#line.show({ ...state, unsent: this.#queue.length });
  }

  /** Whether the result of this call is kept, to be sent. */
  hasResult(callId: string): boolean {
    return this.#queue.some(({ name, payload }) => name === "tool_result" && (payload as ClientEvents["tool_result"]).call_id === callId);
  }

  /** One after the other, so that what was said first is stored first. */
  async flush(): Promise<void> {
    if (this.#isBusy) return this.#wake();
    this.#isBusy = true;
    try {
      for (let tries = 0; this.#line.isOpen && this.#queue[0]; ) {
        const entry = this.#next();
        if (entry === null) {
          await this.#pause(Math.min(...this.#queue.map((one) => this.#holdOf(one)?.until ?? 0)) - Date.now());
          continue;
        }
        const answer = await this.#line.send(entry).catch(() => null);
        if (answer === null) {
          if (this.#line.isOpen) await pause(backoff(tries++)); // no answer, and the connection is there all the same
          else await this.#lostOver(entry);
          continue;
        }
        tries = 0;
        if (answer.type === "error" && (answer.payload as ErrorPayload).retryable) {
          this.#hold(entry, answer.payload as ErrorPayload);
          continue;
        }
        for (const subject of subjectsOf(entry)) this.#holds.delete(subject);
        await this.#settled(entry, answer);
        this.#showHolds();
      }
    } finally {
      this.#isBusy = false;
    }
  }

  /** What is to be sent now; null where all has to wait. */
  #next(): Entry | null {
    const now = Date.now();
    const free = this.#queue.filter((entry) => (this.#holdOf(entry)?.until ?? 0) <= now);
    return free.find(({ name }) => FIRST.has(name)) ?? free[0] ?? null;
  }

  /** It waits, and so does what the same refusal would meet: what is behind it in its conversation stays behind it. */
  #hold(entry: Entry, error: ErrorPayload): void {
    const subjects = subjectsOf(entry);
    const subject = (error.code === "busy" ? subjects.at(-1) : subjects[0]) as string;
    const tries = this.#holds.get(subject)?.tries ?? 0;
    this.#holds.set(subject, { until: Date.now() + (error.retry_after_ms ?? backoff(tries)), tries: tries + 1, error });
    this.#showHolds();
  }

  /** Why it has to wait, for the longest. */
  #holdOf(entry: Entry): Hold | undefined {
    const holds = subjectsOf(entry).flatMap((subject) => this.#holds.get(subject) ?? []);
    return holds.sort((a, b) => b.until - a.until)[0];
  }

  #showHolds(): void {
    let { state } = this.#line;
    for (const entry of this.#queue) {
      if (entry.name !== "user_message") continue;
      const hold = this.#holdOf(entry);
      state = held(state, entry.id, entry.conversationId, hold ? { heldUntil: new Date(hold.until).toISOString(), error: hold.error } : null);
    }
    this.#line.show(state);
  }

  /** A while, or until there is something else to send. */
  async #pause(ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, ms);
    });
    clearTimeout(timer);
    this.#wake = ignore;
  }

  /** The connection was lost before the answer. By chance it happens once; what closes it every time must not hold up
   * what is behind it, nor keep the client coming and going. */
  async #lostOver(entry: Entry): Promise<void> {
    const before = this.#lost.id === entry.id ? this.#lost : { times: 0, notTaken: 0 };
    this.#lost = { id: entry.id, times: before.times + 1, notTaken: before.notTaken + Number(this.#line.isNotTaken) };
    if (this.#lost.notTaken >= TIMES_NOT_TAKEN) {
      const message = "The server does not take it: each time it closed the connection.";
      return await this.#drop(entry, { code: "too_large", message, retryable: false });
    }
    if (this.#lost.times > 1) await pause(backoff(this.#lost.times - 2));
  }

  async #settled(entry: Entry, answer: Envelope): Promise<void> {
    if (answer.type === "error") return await this.#drop(entry, answer.payload as ErrorPayload);
    await this.#forget(entry);
    this.#waiting.get(entry.id)?.resolve(answer.payload as never);
    this.#waiting.delete(entry.id);
    const state: State = { ...this.#line.state, unsent: this.#queue.length };
    if (entry.name === "approval") this.#line.show(decisionStored(state, entry.payload as Approval));
    else if (entry.name === "feedback" && isNewest(state, answer)) this.#line.show(rated(state, entry.payload as Feedback));
    else this.#line.show(state);
  }

  async #drop(entry: Entry, error: ErrorPayload): Promise<void> {
    await this.#forget(entry);
    this.#tell(entry, error);
  }

  async #forget(entry: Entry): Promise<void> {
    this.#queue = this.#queue.filter((one) => one.id !== entry.id);
    await this.#outbox.then((outbox) => outbox.remove(entry.id)).catch(ignore);
  }

  /** Refused for good: whoever waits for it hears, and a message shows it. */
  #tell({ id, name, conversationId, payload }: Entry, error: ErrorPayload): void {
    this.#waiting.get(id)?.reject(new TwinError(error));
    this.#waiting.delete(id);
    const state: State = { ...this.#line.state, unsent: this.#queue.length };
    if (name === "user_message") this.#line.show(refused(state, id, conversationId, error));
    else this.#line.show(name === "approval" ? decisionRefused(state, (payload as Approval).approval_id, error) : state);
  }

  /** Nothing more is sent for now: whoever waits hears. What is not sent stays in the outbox. */
  fail(message: string, code: string): void {
    for (const { reject } of this.#waiting.values()) reject(new TwinError({ code, message, retryable: false }));
    this.#waiting.clear();
  }
}

/** What a refusal of it may be about: its kind, and of what is to be answered also its conversation, which may be `busy`. */
function subjectsOf({ name, conversationId }: Entry): string[] {
  return ANSWERED.has(name) ? ["answers", `answers in ${conversationId}`] : [name];
}

/** Whether nothing stands behind what was stored: the receipt of a repeat may come after what another device did since. */
function isNewest(state: State, { metadata }: Envelope): boolean {
  return metadata.seq == null || metadata.seq >= (state.lastSeq ?? 0);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

let lastInstant = 0;
function nextInstant(): number {
  lastInstant = Math.max(Date.now(), lastInstant + 0.001);
  return lastInstant;
}

function ignore(): void {}
