/** A chat page of the Vercel AI SDK over the service, for `tests/test_ai_sdk.py`: `#url=...&token=...`. */
import { useChat } from "@ai-sdk/react";
import { lastAssistantMessageIsCompleteWithApprovalResponses } from "ai";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { connect, TwinError } from "../src/index.js";
import { TwinChatTransport, type TwinUIMessage } from "../src/ai-sdk.js";
import { useLiveChat } from "../src/ai-sdk-react.js";

type Part = TwinUIMessage["parts"][number];

function Chat({ transport }: { transport: TwinChatTransport }) {
  const chat = useChat<TwinUIMessage>({ id: "main", transport, sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses });
  useLiveChat(transport, chat);
  const [text, setText] = useState("");
  const { messages, status, error } = chat;
  const part = (one: Part, index: number) => {
    if (one.type === "text") return <span key={index} className="text">{one.text}</span>;
    if (one.type === "reasoning") return <i key={index}>{one.text}</i>;
    if (one.type !== "dynamic-tool") return null;
    const decide = (approved: boolean) => one.approval && chat.addToolApprovalResponse({ id: one.approval.id, approved });
    return (
      <div key={index} className="tool" data-state={one.state} data-name={one.toolName}>
        {one.title} {JSON.stringify(one.input)}
        {one.state === "approval-requested" && <button onClick={() => decide(true)}>Allow</button>}
        {one.state === "approval-requested" && <button onClick={() => decide(false)}>Refuse</button>}
      </div>
    );
  };
  const send = (mode: "queue" | "interrupt") => {
    void chat.sendMessage({ text }, { body: { mode } });
    setText("");
  };
  return (
    <main data-status={status} data-error={error instanceof TwinError ? error.code : (error?.message ?? "")}>
      <ol>
        {messages.map((one) => (
          <li key={one.id} data-role={one.role} data-state={one.metadata?.state} data-id={one.metadata?.messageId}>
            {one.parts.map(part)}
          </li>
        ))}
      </ol>
      <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
      <button onClick={() => send("queue")}>Send</button>
      <button onClick={() => send("interrupt")}>Interrupt</button>
      <button onClick={() => void chat.stop()}>Stop</button>
      <button onClick={() => void chat.regenerate()}>Again</button>
    </main>
  );
}

const given = new URLSearchParams(location.hash.slice(1));
const client = connect({ url: given.get("url") ?? "", getToken: () => given.get("token") ?? "" });
createRoot(document.body.appendChild(document.createElement("div"))).render(
  <StrictMode>
    <Chat transport={new TwinChatTransport(client)} />
  </StrictMode>,
);
