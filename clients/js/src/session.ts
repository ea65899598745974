/** A session id for each browser tab: kept over reloads and crashes, so that its outbox is its own; not for its copies. */

const KEY = "twin-sio-session";
const PATIENCE_MS = 300;

/** The tab's session id: the one it had before, or `fresh`, which it has from now on. */
export async function tabSession(fresh: string): Promise<string> {
  const known = remembered();
  const id = known !== null && (await claimed(known)) ? known : fresh;
  if (id === fresh) await claimed(fresh);
  remember(id);
  return id;
}

/** A duplicated tab begins with a copy of its origin's storage. It must not take the origin's session from it: whoever
 * holds the lock has the session, and a page that is being reloaded lets go of it in a moment. */
async function claimed(id: string): Promise<boolean> {
  const locks = typeof navigator === "undefined" ? undefined : navigator.locks;
  if (!locks) return true; // not in a secure context, or not in a browser
  return await new Promise((resolve) => {
    const name = `${KEY}:${id}`;
    const held = (): Promise<never> => {
      resolve(true);
      return new Promise(() => undefined); // until the page goes
    };
    locks.request(name, { signal: AbortSignal.timeout(PATIENCE_MS) }, held).catch(() => resolve(false));
  });
}

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
