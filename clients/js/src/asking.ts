/** What is asked until it is answered. */
import type { TwinClient } from "./client.js";
import { TwinError, waitAfter } from "./wire.js";

/** Ask until there is an answer: again after a while where it was refused in passing, and over the next connection where
 * this one was lost. Rejects with what is refused for good, and where the session ends before; undefined where it is not
 * wanted any more. */
export async function untilAnswered<T>(
  client: Pick<TwinClient, "state" | "subscribe" | "until">,
  ask: () => Promise<T>,
  isWanted: () => boolean = () => true,
): Promise<T | undefined> {
  for (let tries = 0; ; tries += 1) {
    await client.until((state) => state.connection === "online");
    if (!isWanted()) return undefined;
    try {
      return await ask();
    } catch (error) {
      const isRefused = error instanceof TwinError;
      if (isRefused && !error.error.retryable) throw error;
      if (isRefused || client.state.connection === "online") await pause(client, waitAfter(error, tries));
    }
  }
}

/** A while, or until the client is closed. */
async function pause(client: Pick<TwinClient, "state" | "subscribe">, ms: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      unsubscribe();
      resolve();
    };
    const timer = setTimeout(done, ms);
    const unsubscribe = client.subscribe(() => client.state.connection === "closed" && done());
  });
}
