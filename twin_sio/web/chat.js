// The chat page: one user's session over the client, and around the conversation what belongs to the page: who is here,
// which conversations there are, what the twin believes, how it looks.
import { connect, untilAnswered } from "./twin-client.js";
import { APPROVAL_DRAFT } from "./approval.js";
import { ConversationView } from "./conversation.js";
import { draftsOf, keepDraft } from "./drafts.js";
import { ProfileView } from "./profile.js";
import { button, count, directed, make, setText, errorText } from "./view.js";
import { named, shortened, valueOf } from "./words.js";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 400;
const REFRESH_EVERY_MS = 2000; // a list costs the server much, and a conversation that goes on changes it all the time
const SEARCH_MS = 300;
const SIGN_IN = new Set(["auth_missing", "auth_invalid", "auth_expired", "auth_user_mismatch", "auth_forbidden"]);
const SEARCH_TEXT_MAX = 500;
const HOME = new URL(".", location.href).href; // the service's address, which may be below a path
const IS_LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\]|.+\.localhost)$/.test(location.hostname);
const DEMO_MODEL = "smollm2-135m-instruct"; // which comes with the service, for a first look
const THEMES = new Set(["auto", "light", "dark"]);

// The languages' grammars are large and most conversations have no code.
let grammars;
const highlight = (code, language) => language && (grammars ??= import("./highlight.js")).then((it) => it.highlight(code, language));
// So is what typesets formulas.
const math = () => import("./math.js");

class Page {
  constructor() {
    this.token = stored("token");
    this.refreshed = 0; // when the list was asked for last, in ms
    this.isListed = false; // whether all of it was fetched over this connection
    this.profile = new ProfileView($("profile"), { get: (path) => this.get(path), say: (...words) => this.say(...words) });
    $("open-profile").addEventListener("click", () => this.profile.open(this.client));
    $("new").addEventListener("click", () => this.openConversation(`web-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`));
    $("again").addEventListener("click", () => this.open());
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    $("search-text").addEventListener("input", () => {
      clearTimeout(this.searching);
      this.searching = setTimeout(() => this.search(), SEARCH_MS);
    });
    $("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      $("sign-in").close();
      this.open($("token").value.trim());
      $("token").value = "";
    });
    $("sign-in-dev").hidden = !IS_LOOPBACK;
    $("sign-in-dev").addEventListener("click", () => this.signInAsDeveloper());
    $("sign-out").addEventListener("click", () => this.signOut());
    $("other-account").addEventListener("close", () => this.answerLink($("other-account").returnValue === "switch"));
    addEventListener("hashchange", () => this.takeLink());
    $("theme").addEventListener("change", (event) => wear(event.target.value));
    wear(remembered("theme") ?? "auto");
  }

  // What the page begins with: the token of a link, or the one that this tab has.
  start() {
    if (!this.takeLink()) this.open();
  }

  // A link with a token never changes the account without a word: where another user was here, the page asks first.
  // True where there was a token in the link.
  takeLink() {
    const given = tokenOfLink();
    if (!given) return false;
    const [name, before] = [userOf(given), userOf(this.token) ?? remembered("user")];
    if (!before || !name || before === name) {
      this.open(given);
      return true;
    }
    this.offered = given;
    setText($("other-account-why"), `This link signs you in as ${name}. Here you were ${before}: what you write then goes to the other account.`);
    setText($("stay"), `Stay ${before}`);
    if (!$("other-account").open) $("other-account").showModal();
    return true;
  }

  answerLink(isWanted) {
    const given = this.offered;
    this.offered = null;
    if (isWanted) this.open(given);
    else if (!this.client) this.open();
  }

  // A session with this token, or the one that is known; what an earlier one had not sent yet goes on in it.
  open(token = this.token) {
    this.leave();
    this.token = token;
    if (!token) return this.askForToken({ code: "auth_missing" });
    keep("token", token);
    if ($("sign-in").open) $("sign-in").close();
    this.client = connect({ url: HOME, getToken: () => this.token, device: { name: deviceName(), platform: "web" }, page: 0 });
    const conversationId = stored("conversation") ?? "main";
    this.view = new ConversationView($("conversation"), this.client, { conversationId, highlight, math, user: userOf(token) });
    untilAnswered(this.client, () => this.client.profile()).catch(() => undefined);
    this.state = this.client.state;
    this.stop = this.client.subscribe(() => this.changed());
    this.showConnection(this.client.state);
    this.view.focus();
  }

  // This tab forgets who was here; what is not sent yet waits for them.
  signOut() {
    this.leave();
    Object.assign(this, { client: null, token: null });
    forget("token", "sessionStorage");
    forget("user", "localStorage");
    for (const id of ["conversation", "conversations", "found-messages", "traits"]) $(id).replaceChildren();
    this.showDevices({ sessions: [] });
    if ($("side").matches(":popover-open")) $("side").hidePopover();
    $("open-profile").disabled = true;
    this.askForToken({ code: "signed_out", message: "You are signed out." });
  }

  // The service gives a token to a browser on its own machine alone, and in development only.
  async signInAsDeveloper() {
    try {
      const response = await fetch(`${HOME}dev/token`, { method: "POST" });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.message);
      this.open(answer.token);
    } catch (error) {
      setText($("sign-in-why"), `That did not work. ${error.message}`);
    }
  }

  leave() {
    clearTimeout(this.searching);
    this.stop?.();
    this.view?.close();
    this.client?.close();
    clearTimeout(this.refreshing);
    this.refreshing = null;
  }

  // What the field asks for; where it is empty, the conversations again. Only the newest answer is shown.
  async search() {
    clearTimeout(this.searching);
    const text = $("search-text").value.trim();
    const isOpen = text !== "";
    $("found").hidden = !isOpen;
    $("talks").hidden = isOpen;
    if (!isOpen) return $("found-messages").replaceChildren();
    if (!this.client) return this.open();
    let found;
    try {
      if (count(text) > SEARCH_TEXT_MAX) throw new Error(`Search for less: at most ${SEARCH_TEXT_MAX} characters.`);
      found = await this.client.search(text);
    } catch (error) {
      found = { messages: [], note: errorText(error) };
    }
    if (text !== $("search-text").value.trim()) return;
    const { messages, complete = true, note } = found;
    setText($("found-note"), note ?? (complete ? `${messages.length} found` : `${messages.length} found so far: ask again in a moment`));
    $("found-messages").replaceChildren(...messages.map((one) => this.foundLine(one)));
  }

  foundLine({ message_id: id, conversation_id: conversationId, role, excerpt, timestamp }) {
    const when = new Date(timestamp).toLocaleDateString([], { dateStyle: "medium" });
    const content = [make("span", "when", `${when}, ${role === "twin" ? "your twin" : "you"}`), directed(make("span", "excerpt", excerpt))];
    const made = button("found-line", "", () => this.openConversation(conversationId, id), "");
    made.removeAttribute("title");
    made.removeAttribute("aria-label");
    made.append(...content);
    made.dataset.messageId = id;
    return make("li", "", made);
  }

  openConversation(id, messageId = null) {
    if (!this.client) return this.open();
    keep("conversation", id);
    if (messageId === null || id !== this.view.id) this.view.open(id);
    this.showList(this.client.state);
    this.showModel(this.client.state);
    if ($("side").matches(":popover-open")) $("side").hidePopover();
    if (messageId === null) this.view.focus();
    else this.view.reveal(messageId);
  }

  changed() {
    const [before, state] = [this.state, this.client.state];
    this.state = state;
    if (state.connection !== before.connection || state.reason !== before.reason) this.showConnection(state);
    if (["connection", "sessions", "sessionId"].some((one) => state[one] !== before[one])) this.showDevices(state);
    if (state.list !== before.list) this.showList(state);
    if (state.conversations !== before.conversations) this.showModel(state);
    if (state.profile !== before.profile) this.showProfile(before.profile, state.profile);
    const isNew = state.connection === "online" && before.connection !== "online";
    if (isNew) this.isListed = false;
    if (state.connection === "ended") $("found-messages").replaceChildren(); // it may be all erased
    if (isErased(before, state)) this.forgetErased();
    if (isNew || state.lastSeq !== before.lastSeq) this.refresh();
  }

  // What stands outside the client's state.
  forgetErased() {
    $("found-messages").replaceChildren();
    for (const key of draftsOf(APPROVAL_DRAFT)) keepDraft(key, null);
  }

  // The list is no part of the log: it is asked for when something may have changed in it. All of it once for a connection,
  // as only that tells what is gone; then those that were talked in last.
  refresh(wait = REFRESH_MS) {
    this.refreshing ??= setTimeout(() => {
      this.refreshing = null;
      this.refreshed = Date.now();
      const { client, state } = this;
      const again = ({ error }) => client === this.client && client.state.connection === "online" && error?.retryable !== false && this.refresh(error?.retry_after_ms ?? 0);
      client.conversations({ newest: this.isListed }).then(() => {
        const isBehind = !this.isListed && client.state.lastSeq !== state.lastSeq; // a list of many pages takes a while
        this.isListed = true;
        if (isBehind && client === this.client) this.refresh();
      }, again);
    }, Math.max(wait, this.refreshed + REFRESH_EVERY_MS - Date.now()));
  }

  // -- what is shown --------------------------------------------------------------------------------------------------

  showConnection({ connection, reason, userId }) {
    const texts = {
      connecting: "Connecting …",
      online: `Connected as ${userId}`,
      offline: "Offline, trying again …",
      draining: "The server restarts …",
    };
    $("connection").dataset.state = connection;
    const isTried = connection === "connecting" || connection === "offline";
    const text = texts[connection] ?? errorText(reason);
    setText($("connection"), isTried && reason ? `${text} ${errorText(reason)}` : text);
    if (connection === "online") keep("user", userId, "localStorage");
    const isOver = connection === "ended" || connection === "refused";
    $("again").hidden = !isOver;
    const again = reason?.code === "replaced" ? "Use it here" : "Start again";
    setText($("again"), connection === "ended" ? again : "Sign in");
    $("offline").hidden = connection !== "offline" && connection !== "draining";
    $("open-profile").disabled = connection !== "online";
    this.profile.showUnsent();
    if (isOver && $("profile").open) $("profile").close(); // why it is over stands behind it
    if (connection === "refused" && SIGN_IN.has(reason?.code)) this.askForToken(reason);
  }

  // Whoever tries the service out should not take the demo's answers for what it can do.
  showModel({ conversations }) {
    const last = conversations[this.view.id]?.messages.findLast((message) => message.model);
    $("demo").hidden = last?.model !== DEMO_MODEL;
    if (!$("demo").hidden && !this.lookedForModels) this.offerModels();
  }

  // Model servers that run on the developer's machine already, each with the line that starts the service with it.
  async offerModels() {
    this.lookedForModels = true;
    const response = await fetch(new URL("dev/models", HOME)).catch(() => null);
    const { found } = response?.ok ? await response.json() : { found: [] };
    for (const { server, models, command } of found) {
      const others = models.length > 1 ? ` (it has ${models.join(", ")})` : "";
      $("local-models").append(`. ${server} runs on this machine${others}: `, make("code", "", command));
    }
  }

  askForToken(reason) {
    $("again").hidden = false;
    setText($("again"), "Sign in");
    $("connection").dataset.state = "refused";
    setText($("connection"), errorText(reason));
    setText($("sign-in-why"), errorText(reason));
    if (!$("sign-in").open) $("sign-in").showModal();
  }

  // Who is here is known only over a connection.
  showDevices({ connection, sessions, sessionId }) {
    const isOwn = (one) => one.session_id === sessionId;
    const order = connection === "online" ? [...sessions].sort((a, b) => isOwn(b) - isOwn(a)) : [];
    $("here").hidden = order.length === 0;
    $("devices").replaceChildren(
      ...order.map((one) => {
        const item = make("li", "", isOwn(one) ? "This device" : (one.device?.name ?? "A device"));
        item.dataset.sessionId = one.session_id;
        return item;
      }),
    );
    setText($("device-count"), order.length > 1 ? `on ${order.length} devices` : "");
  }

  showList({ list, conversations }) {
    const lines = [...(list ?? [])];
    if (!lines.some((line) => line.conversation_id === this.view.id)) {
      lines.unshift({ conversation_id: this.view.id, title: "", last_message: null, unread: 0 });
    }
    const focus = document.activeElement?.dataset?.conversationId;
    $("conversations").replaceChildren(...lines.map((line) => this.line(line, conversations)));
    if (focus) $("conversations").querySelector(`[data-conversation-id="${CSS.escape(focus)}"]`)?.focus();
  }

  line({ conversation_id: id, title, last_message: last, unread }, conversations) {
    const first = conversations[id]?.messages.find((message) => message.role === "user")?.text;
    const isOpen = id === this.view.id;
    const name = title || shortened(first ?? last?.text ?? "New conversation", 48);
    const made = button("conversation-line", name, () => this.openConversation(id), directed(make("span", "title", name)));
    made.removeAttribute("title");
    made.dataset.conversationId = id;
    if (isOpen) made.setAttribute("aria-current", "true");
    if (unread > 0 && !isOpen) {
      made.append(make("span", "unread", String(unread)));
      made.setAttribute("aria-label", `${name}, ${unread} unread`);
    }
    if (!isOpen && conversations[id]?.approvals.some((one) => one.decision === null && one.sending === null)) {
      made.append(make("span", "asks", "waits for you"));
      made.removeAttribute("aria-label");
    }
    return make("li", "", made);
  }

  showProfile(before, profile) {
    this.profile.show(profile);
    if (!before || !profile || $("profile").open) return;
    const known = new Set(before.traits.filter((one) => one.status === "applied").map((one) => `${one.trait_id} ${one.value}`));
    const news = profile.traits.filter((one) => one.status === "applied" && !known.has(`${one.trait_id} ${one.value}`));
    for (const trait of news.slice(0, 3)) this.say(`Your twin now knows: ${named(trait.key)}, ${valueOf(trait)}`);
  }

  say(text, code) {
    this.view.say(text, code);
  }

  async get(path) {
    const headers = { Authorization: `Bearer ${this.token}` };
    const response = await fetch(new URL(path.slice(1), HOME), { headers }).catch(() => null);
    const answer = await response?.json().catch(() => null); // a proxy's error is no JSON
    if (!response?.ok) throw answer ?? { code: "unreachable" };
    return answer;
  }
}

// From the fragment, which is never sent to a server, and then out of sight; a reload finds it in the tab's storage.
function tokenOfLink() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token")?.trim();
  if (given) history.replaceState(null, "", location.pathname + location.search);
  return given || null;
}

// Whom a token is for, as it says itself; null where it does not. Only for what is shown: the server checks it.
function userOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
    return String(JSON.parse(new TextDecoder().decode(bytes)).sub ?? "") || null;
  } catch {
    return null;
  }
}

// While this page was connected, or away: then the epoch tells. At the first greeting it is only learnt.
const isErased = (before, { connection, reason, epoch }) => (connection === "ended" && reason?.code === "erased") || (before.lastSeq !== null && epoch !== before.epoch);

function keep(name, value, storage = "sessionStorage") {
  try {
    globalThis[storage].setItem(name, value);
  } catch {
    // No storage: it holds until the page is left.
  }
}

function forget(name, storage) {
  try {
    globalThis[storage].removeItem(name);
  } catch {
    // Nothing was kept.
  }
}

function stored(name, storage = "sessionStorage") {
  try {
    return globalThis[storage].getItem(name);
  } catch {
    return null;
  }
}

function deviceName() {
  const agent = navigator.userAgent;
  const find = (names) => names.find((name) => agent.includes(name));
  const browser = { Edg: "Edge", Chrome: "Chrome", Firefox: "Firefox", Safari: "Safari" }[find(["Edg", "Chrome", "Firefox", "Safari"])];
  const system = find(["Android", "iPhone", "iPad", "Windows", "Mac", "Linux"]);
  return `${browser ?? "Browser"}${system ? ` on ${system}` : ""}`;
}

function wear(theme) {
  const worn = THEMES.has(theme) ? theme : "auto";
  document.documentElement.dataset.theme = worn;
  $("theme").value = worn;
  keep("theme", worn, "localStorage");
}

const remembered = (name) => stored(name, "localStorage");

new Page().start();
