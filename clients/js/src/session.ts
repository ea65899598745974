/** A session id for each browser tab: kept over reloads and crashes, so that its outbox is its own; not for its copies. */

const KEY = "twin-sio-session";
const PATIENCE_MS = 5_000; // for a page that is being reloaded, in a slow browser, to let go of its session

export interface TabSession {
  readonly id: Promise<string>;
  /** Let the next client of this tab have it, from now on. */
  readonly release: () => void;
}

/** The tab's session: the one it had before, or one of the id `fresh`, which it has from now on. */
export function tabSession(fresh: string): TabSession {
  const left = new AbortController();
  return { id: own(fresh, left.signal), release: () => left.abort() };
}

async function own(fresh: string, left: AbortSignal): Promise<string> {
  const known = remembered();
  if (known !== null && ((await claimed(known, false, left)) || left.aborted)) return known;
  remember(fresh);
  // Nobody else has it: however slow the browser is, this tab comes to hold it, and no copy of it can.
  await claimed(fresh, true, left);
  return fresh;
}

/** A duplicated tab begins with a copy of its origin's storage. It must not take the origin's session from it: the page
 * that holds the lock has the session, and says so when asked, as does one that has made the session and waits for the
 * lock (`isOurs`). A page that is being reloaded, or a client that was closed, says nothing, and its lock is soon free. */
async function claimed(id: string, isOurs: boolean, left: AbortSignal): Promise<boolean> {
  const locks = globalThis.navigator?.locks;
  if (!locks) return true; // not in a secure context, or not in a browser
  const name = `${KEY}:${id}`;
  const pages = channel(name);
  const other = new AbortController();
  const giveUp = (): void => other.abort();
  const timer = setTimeout(() => isOurs || giveUp(), PATIENCE_MS);
  return await new Promise((resolve) => {
    const ended = (): void => {
      clearTimeout(timer);
      pages?.close();
      resolve(false);
    };
    const hold = (): Promise<void> | undefined => {
      if (left.aborted) return;
      isOurs = true;
      clearTimeout(timer);
      pages?.postMessage(true);
      resolve(true);
      return new Promise((release) => left.addEventListener("abort", () => release()));
    };
    left.addEventListener("abort", () => (pages?.close(), giveUp()));
    if (pages) pages.onmessage = ({ data }) => isOurs === data || (isOurs ? pages.postMessage(true) : giveUp());
    pages?.postMessage(isOurs);
    locks.request(name, { signal: other.signal }, hold).then(ended, ended);
  });
}

/** None where the browser keeps nothing for this page (Firefox without cookies): there the locks alone decide. */
function channel(name: string): BroadcastChannel | null {
  try {
    return new BroadcastChannel(name);
  } catch {
    return null;
  }
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
