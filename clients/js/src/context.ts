/** Sends the twin what the host app shows: at the start, on navigation, and now and then. */
import type { TwinClient } from "./client.js";
import { TwinError } from "./wire.js";

export interface ContextOptions {
  /** What the app shows now. Called often: cheap, and free of what the twin must not know. */
  readonly read: () => Record<string, unknown>;
  /** Milliseconds between looks beside navigations; 0: on navigation only. Default 60 s. */
  readonly everyMs?: number;
}

/** Begin; returns how to stop. Sends what has changed since it was sent last, in place of what was there, and the same
 * again before the server would forget it. */
export function reportContext(client: TwinClient, options: ContextOptions): () => void {
  const every = options.everyMs ?? 60_000;
  let sent = "";
  let againAt = Infinity;
  const look = (): void => {
    const context = options.read();
    const text = JSON.stringify(context);
    if ((text === sent && Date.now() < againAt) || client.state.connection !== "online") return;
    sent = text;
    againAt = Infinity;
    client.updateContext(context, "replace").then(
      ({ expires_at: end }) => {
        if (end && sent === text) againAt = Date.now() + Math.max(every, (Date.parse(end) - Date.now()) / 2);
      },
      (error: unknown) => {
        const isForGood = error instanceof TwinError && !error.error.retryable && error.code !== "closed";
        if (sent === text && !isForGood) sent = ""; // the next look sends it again
      },
    );
  };
  const timer = every > 0 ? setInterval(look, every) : undefined;
  const unsubscribe = client.subscribe(look);
  const unhook = onNavigation(look);
  look();
  return () => {
    clearInterval(timer);
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
