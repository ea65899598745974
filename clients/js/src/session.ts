/** A session id for each browser tab: kept over reloads and crashes, so that its outbox is its own; not for its copies. */

const KEY = "twin-sio-session";
const PATIENCE_MS = 300; // for a page that is being reloaded to let go of its session

export interface TabSession {
  readonly id: string;
  /** Let the next client of this tab have it. */
  readonly release: () => void;
}

/** The tab's session: the one it had before, or one of the id `fresh`, which it has from now on. */
export async function tabSession(fresh: string): Promise<TabSession> {
  const known = remembered();
  const release = known === null ? null : await claimed(known, AbortSignal.timeout(PATIENCE_MS));
  if (known !== null && release !== null) return { id: known, release };
  remember(fresh);
  // Nobody else has it: however slow the browser is, this tab comes to hold it, and no copy of it can.
  return { id: fresh, release: (await claimed(fresh)) ?? nothing };
}

/** A duplicated tab begins with a copy of its origin's storage. It must not take the origin's session from it: whoever
 * holds the lock has the session; a page that is being reloaded, or a client that is closed, lets go of it in a moment. */
async function claimed(id: string, until?: AbortSignal): Promise<(() => void) | null> {
  const locks = typeof navigator === "undefined" ? undefined : navigator.locks;
  if (!locks) return nothing; // not in a secure context, or not in a browser
  return await new Promise((resolve) => {
    const held = (): Promise<void> => new Promise((release) => resolve(release));
    locks.request(`${KEY}:${id}`, until ? { signal: until } : {}, held).catch(() => resolve(null));
  });
}

function nothing(): void {}

function remembered(): string | null {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(id: string): void {
  try {
    sessionStorage.setItem(KEY, id);
  } catch {
    // No storage: a reload is a new session.
  }
}
