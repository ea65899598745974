/** What the service tells without being asked, in `useChat`: what is said elsewhere, and answers that go on. */
import { useEffect, useRef, useSyncExternalStore } from "react";
import { untilAnswered } from "./asking.js";
import type { Conversation } from "./conversation.js";
import { running, uiMessages, type TwinChatTransport, type TwinUIMessage } from "./ai-sdk.js";

// Where nothing is asked any more, until the app lets the client come back.
const ENDED = new Set(["refused", "ended", "closed"]);

/** Of what `useChat` gives, what is needed here. */
export interface LiveChat {
  readonly id: string;
  readonly status: "submitted" | "streaming" | "ready" | "error";
  readonly setMessages: (messages: TwinUIMessage[]) => void;
  readonly resumeStream: () => Promise<void>;
}

/** Keep a chat as the conversation is on all devices, whenever no answer is streamed into it: `useLiveChat(transport,
 * chat)` beside `const chat = useChat({ id: "main", transport })`. Loads the newest page of the conversation. */
export function useLiveChat(transport: TwinChatTransport, chat: LiveChat): void {
  const { client } = transport;
  const { id, status, setMessages, resumeStream } = chat;
  const here = useSyncExternalStore(client.subscribe, () => client.state.conversations[id], () => undefined);
  const isOnline = useSyncExternalStore(client.subscribe, () => client.state.connection === "online", () => false);
  const isEnded = useSyncExternalStore(client.subscribe, () => ENDED.has(client.state.connection), () => false);
  const shown = useRef<Conversation | null>(null);
  const isMissing = here === undefined || here.hasMore === null;
  useEffect(() => {
    if (!isMissing) return;
    let isWanted = true;
    untilAnswered(client, () => client.history({ conversationId: id }), () => isWanted).catch(() => undefined);
    return () => void (isWanted = false);
  }, [client, id, isEnded, isMissing]);
  const isBusy = status === "submitted" || status === "streaming";
  useEffect(() => {
    // What is rendered of the status may be older than what the SDK does by now.
    if (isBusy || isMissing || shown.current === here || transport.isStreaming(id)) return;
    shown.current = here;
    setMessages(uiMessages(here));
    if (isOnline && running(here) !== null) void resumeStream();
  }, [transport, id, here, isBusy, isMissing, isOnline, setMessages, resumeStream]);
}
