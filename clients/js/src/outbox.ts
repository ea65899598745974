/** What was asked for and is not acknowledged yet, in the order it was asked; kept until the server has it. */
import type { ClientEvents } from "./protocol.js";

/** The events that carry an id of their own, so that sending them again has no second effect. */
export type QueuedEvent = "user_message" | "feedback" | "regenerate" | "profile_correct" | "approval" | "tool_result";

export interface Entry<Name extends QueuedEvent = QueuedEvent> {
  /** The `message_id`: the same for every time it is sent. */
  readonly id: string;
  readonly name: Name;
  readonly conversationId: string;
  readonly payload: ClientEvents[Name];
  /** Milliseconds since 1970; entries are sent in this order. */
  readonly at: number;
  /** Who said it, where that was known; it is sent for nobody else. */
  readonly userId?: string | null;
}

/** Where entries are kept. One outbox belongs to one user and one session. */
export interface Outbox {
  /** Everything that is kept, oldest first. */
  all(): Promise<Entry[]>;
  /** Keep it; on return it outlives what the outbox is made for. */
  add(entry: Entry): Promise<void>;
  /** The server has it, or will never take it. */
  remove(id: string): Promise<void>;
}

/** For Node and tests: outlives connections, not the process. */
export class MemoryOutbox implements Outbox {
  readonly #entries = new Map<string, Entry>();

  async all(): Promise<Entry[]> {
    return [...this.#entries.values()];
  }

  async add(entry: Entry): Promise<void> {
    this.#entries.set(entry.id, entry);
  }

  async remove(id: string): Promise<void> {
    this.#entries.delete(id);
  }
}

const PREFIX = "twin-sio-outbox:";

/** For browsers: outlives reloads, crashes and being offline. `name` keeps users and sessions apart. */
export class IndexedDbOutbox implements Outbox {
  readonly #database: Promise<IDBDatabase>;

  /** It is this page's from when `lock` is had until the page ends. */
  constructor(name: string, lock: Promise<void> = held(PREFIX + name)) {
    this.#database = lock.then(() => opened(PREFIX + name));
  }

  async all(): Promise<Entry[]> {
    const found = await this.#run<Entry[]>("readonly", (store) => store.getAll());
    return found.sort((a, b) => a.at - b.at);
  }

  async add(entry: Entry): Promise<void> {
    await this.#run("readwrite", (store) => store.put(entry));
  }

  async remove(id: string): Promise<void> {
    await this.#run("readwrite", (store) => store.delete(id));
  }

  async close(): Promise<void> {
    (await this.#database).close();
  }

  async #run<T>(mode: IDBTransactionMode, ask: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    const database = await this.#database;
    return await new Promise<T>((resolve, reject) => {
      const transaction = database.transaction("entries", mode);
      const request = ask(transaction.objectStore("entries"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
      transaction.onerror = () => reject(transaction.error);
    });
  }
}

/** Give `take` what this user did not get sent in tabs that are closed, and remove what is left of those. */
export async function takeOver(own: string, userId: string | null, take: (entry: Entry) => Promise<void>): Promise<void> {
  const { locks } = globalThis.navigator ?? {};
  if (!locks || typeof indexedDB === "undefined" || !indexedDB.databases) return;
  for (const { name = "" } of await indexedDB.databases()) {
    if (!name.startsWith(PREFIX) || name === PREFIX + own) continue;
    await locks.request(name, { ifAvailable: true }, async (lock) => {
      if (lock === null) return; // its page is open
      const outbox = new IndexedDbOutbox(name.slice(PREFIX.length), Promise.resolve());
      let isEmpty = true;
      for (const entry of await outbox.all()) {
        if (entry.userId !== userId) isEmpty = false; // it waits for whoever said it
        else await take(entry).then(() => outbox.remove(entry.id));
      }
      await outbox.close();
      if (isEmpty) indexedDB.deleteDatabase(name);
    });
  }
}

/** Done once this page has a share of it; no page takes over what another has. */
async function held(name: string): Promise<void> {
  const { locks } = globalThis.navigator ?? {};
  if (!locks) return; // not in a secure context, or not in a browser
  await new Promise<void>((resolve) => {
    const hold = (): Promise<never> => (resolve(), new Promise(() => undefined));
    locks.request(name, { mode: "shared" }, hold).catch(() => resolve());
  });
}

function opened(name: string): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("entries", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** IndexedDB where there is one that works, memory elsewhere (Node, some private windows). */
export async function bestOutbox(name: string): Promise<Outbox> {
  if (typeof indexedDB === "undefined") return new MemoryOutbox();
  const outbox = new IndexedDbOutbox(name);
  try {
    await outbox.all();
    return outbox;
  } catch {
    return new MemoryOutbox();
  }
}
