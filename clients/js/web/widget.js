// The drop-in widget: one conversation in an element of another app's page, out of reach of its styles.
import { connect, reportContext } from "../src/index.ts";
import { ConversationView } from "../../../twin_sio/web/conversation.js";
import { button, make, setText, errorText } from "../../../twin_sio/web/view.js";
import shared from "../../../twin_sio/web/conversation.css";
import own from "./widget.css";

const home = document.currentScript ? new URL(".", document.currentScript.src).href : undefined; // may be below a path
const TEXTS = { connecting: "Connecting …", online: "", offline: "Offline, trying again …", draining: "The server restarts …" };

/**
 * Show the conversation in `element`, whose size it takes. `getToken` gives a token whenever one is needed. `context` is
 * what the app shows: a function is asked at the start, on every navigation and now and then. Returns the client, and
 * how to take it away again.
 */
export function mount(element, { url = home, getToken, context, conversationId = "main", title = "Your twin", theme = "auto", device } = {}) {
  if (!(element instanceof Element) || typeof getToken !== "function" || !url) {
    throw new TypeError("TwinChat.mount(element, { getToken, url }): an element, a function and the service's address are needed.");
  }
  const host = make("div");
  host.dataset.theme = theme;
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet(); // not <style>: the host's Content-Security-Policy need not allow it
  sheet.replaceSync(shared + own);
  root.adoptedStyleSheets = [sheet];
  const name = make("h2", "name", title);
  const state = make("p", "state");
  state.setAttribute("role", "status");
  const body = make("div", "conversation");
  const again = button("again", "Try again", () => client.reconnect());
  root.append(make("header", "", name, state, again), body);
  element.replaceChildren(host);

  const client = connect({ url, getToken, device: device ?? { name: location.host, platform: "widget" }, page: 0, ...(typeof context === "object" ? { context } : {}) });
  const view = new ConversationView(body, client, { conversationId, math: () => import(new URL(`${url.replace(/\/+$/, "")}/math.js`, location.href).href) });
  const showState = () => {
    const { connection, reason } = client.state;
    state.dataset.state = connection;
    const isTried = connection === "connecting" || connection === "offline";
    const text = TEXTS[connection] ?? errorText(reason);
    setText(state, isTried && reason ? `${text} ${errorText(reason)}` : text);
    again.hidden = connection !== "refused" && connection !== "ended";
  };
  showState();
  const stops = [client.subscribe(showState), typeof context === "function" ? reportContext(client, { read: context }) : () => undefined];
  const close = () => {
    for (const stop of stops) stop();
    view.close();
    client.close();
    host.remove();
  };
  return { client, close };
}

globalThis.TwinChat = { mount };
