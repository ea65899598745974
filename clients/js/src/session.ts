/** A session id for each browser tab: kept over reloads and crashes, so that its outbox is its own; not for its copies. */

const KEY = "twin-sio-session";
const PATIENCE_MS = 5_000; // for a page that is being reloaded, in a slow browser, to let go of its session

export interface TabSession {
  readonly id: string;
  /** Let the next client of this tab have it. */
  readonly release: () => void;
}

/** The tab's session: the one it had before, or one of the id `fresh`, which it has from now on. */
export async function tabSession(fresh: string): Promise<TabSession> {
  const known = remembered();
  const release = known === null ? null : await claimed(known, false);
  if (known !== null && release !== null) return { id: known, release };
  remember(fresh);
  // Nobody else has it: however slow the browser is, this tab comes to hold it, and no copy of it can.
  return { id: fresh, release: (await claimed(fresh, true)) ?? nothing };
}

/** A duplicated tab begins with a copy of its origin's storage. It must not take the origin's session from it: the page
 * that holds the lock has the session, and says so when asked, as does one that has made the session and waits for the
 * lock (`isOurs`). A page that is being reloaded, or a client that was closed, says nothing, and its lock is soon free. */
async function claimed(id: string, isOurs: boolean): Promise<(() => void) | null> {
  const locks = globalThis.navigator?.locks;
  if (!locks) return nothing; // not in a secure context, or not in a browser
  const pages = new BroadcastChannel(`${KEY}:${id}`);
  const other = new AbortController();
  const timer = setTimeout(() => isOurs || other.abort(), PATIENCE_MS);
  pages.onmessage = ({ data }) => {
    if (isOurs !== data) isOurs ? pages.postMessage(true) : other.abort();
  };
  pages.postMessage(isOurs);
  return await new Promise((resolve) => {
    const hold = (): Promise<void> =>
      new Promise((release) => {
        clearTimeout(timer);
        isOurs = true;
        pages.postMessage(true);
        resolve(() => {
          pages.close();
          release();
        });
      });
    locks.request(pages.name, { signal: other.signal }, hold).catch(() => {
      pages.close();
      resolve(null);
    });
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
