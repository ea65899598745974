/** The list of a user's conversations, page by page. */
import { untilAnswered } from "./asking.js";
import type { TwinClient } from "./client.js";
import type { ConversationLine, ConversationListPayload } from "./protocol.js";

type Ask = (payload: { limit: number; before?: number }) => Promise<ConversationListPayload>;

const PAGE = 200; // the most that one has

export class Listing {
  readonly #client: Pick<TwinClient, "state" | "subscribe" | "until">;
  readonly #ask: Ask;
  #whole: Promise<ConversationLine[]> | null = null; // while it is fetched: for all who want it

  constructor(client: Pick<TwinClient, "state" | "subscribe" | "until">, ask: Ask) {
    this.#client = client;
    this.#ask = ask;
  }

  /** All of them; where they are known, and the `newest` alone are wanted, one page of news and the others as they were. */
  async fetch(newest: boolean): Promise<ConversationLine[]> {
    if (newest && this.#client.state.list !== null && this.#whole === null) return await this.#newest();
    return await (this.#whole ??= this.#all().finally(() => (this.#whole = null)));
  }

  async #newest(): Promise<ConversationLine[]> {
    const { conversations: found, has_more } = await this.#ask({ limit: PAGE });
    const ids = new Set(found.map((one) => one.conversation_id));
    return has_more ? [...found, ...(this.#client.state.list ?? []).filter((one) => !ids.has(one.conversation_id))] : found;
  }

  async #all(): Promise<ConversationLine[]> {
    let page: ConversationListPayload | undefined = await this.#ask({ limit: PAGE });
    const found = [...page.conversations];
    while (page?.has_more && typeof page.next === "number") {
      const before: number = page.next;
      page = await untilAnswered(this.#client, () => this.#ask({ limit: PAGE, before })); // what is there is not asked for again
      found.push(...(page?.conversations ?? []));
    }
    return found;
  }
}
