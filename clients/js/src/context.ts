/** Sends the twin what the host app shows: at the start, on navigation, and now and then. */
import type { TwinClient } from "./client.js";
import { TwinError, waitAfter } from "./wire.js";

export interface ContextOptions {
  /** What the app shows now. Called often: cheap, and free of what the twin must not know. */
  readonly read: () => Record<string, unknown>;
  /** Milliseconds between looks beside navigations; 0: on navigation only. Default 60 s. */
  readonly everyMs?: number;
}

/** Begin; returns how to stop. Sends what has changed since it was sent last, in place of what was there, and the same
 * again before the server would forget it. What was refused in passing, or lost, is read and sent anew after a while. */
export function reportContext(client: TwinClient, options: ContextOptions): () => void {
  const every = options.everyMs ?? 60_000;
  let sent = "";
  let againAt = Infinity;
  let tries = 0;
  let waiting: ReturnType<typeof setTimeout> | undefined; // until the server takes one again
  let isOnline = false;
  let isStopped = false;
  const isForGood = (error: unknown): boolean => error instanceof TwinError && !error.error.retryable && error.code !== "closed";
  const look = (): void => {
    if (waiting !== undefined || client.state.connection !== "online") return;
    const context = options.read();
    const text = JSON.stringify(context);
    if (text === sent && Date.now() < againAt) return;
    sent = text;
    againAt = Infinity;
    client.updateContext(context, "replace").then(
      ({ expires_at: end }) => {
        tries = 0;
        if (end && sent === text) againAt = Date.now() + Math.max(every, (Date.parse(end) - Date.now()) / 2);
      },
      (error: unknown) => {
        if (isStopped || sent !== text || isForGood(error)) return;
        sent = "";
        waiting = setTimeout(() => {
          waiting = undefined;
          look();
        }, waitAfter(error, tries++));
      },
    );
  };
  // The state changes with every chunk of an answer: only a connection that is there now is news here.
  const changed = (): void => {
    const wasOnline = isOnline;
    isOnline = client.state.connection === "online";
    if (isOnline && !wasOnline) look();
  };
  const timer = every > 0 ? setInterval(look, every) : undefined;
  const unsubscribe = client.subscribe(changed);
  const unhook = onNavigation(look);
  changed();
  return () => {
    isStopped = true;
    clearInterval(timer);
    clearTimeout(waiting);
    unsubscribe();
    unhook();
  };
}

/** Every change of the page's address, by link, by back and forward, or by an app's router. */
function onNavigation(look: () => void): () => void {
  if (typeof window === "undefined") return () => undefined;
  const soon = (): void => void setTimeout(look);
  const events = ["popstate", "hashchange", "pageshow"] as const;
  for (const name of events) window.addEventListener(name, soon);
  const navigation = (window as { navigation?: EventTarget }).navigation;
  navigation?.addEventListener("navigatesuccess", soon);
  return () => {
    for (const name of events) window.removeEventListener(name, soon);
    navigation?.removeEventListener("navigatesuccess", soon);
  };
}
