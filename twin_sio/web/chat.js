// The chat page: one user's session over the stock socket.io client. Three parts, top down: what is known
// (Conversation, no sockets, no page), the line (Session), and what is shown (View).
//
// The rules of the protocol that everything here serves:
//   durable events carry a seq and are applied in its order, each once; a hole asks for `resume`;
//   chunks are joined by their index within a generation; the text of `twin_message` has the last word;
//   what is sent is sent again, under the same id, until the server says that it has it.

const CONVERSATION = "main";
const DURABLE = new Set(["user_message", "twin_message", "feedback", "read_receipt", "profile_update"]);
const SEND_AGAIN_MS = 8000;
const TYPING_MS = 4000;

const ERRORS = {
  rate_limited: "That was too fast. It is sent again in a moment.",
  busy: "Your twin has several messages to answer. This one is sent again in a moment.",
  overloaded: "The service is very busy. It is tried again in a moment.",
  storage_unavailable: "The message could not be stored yet. It is sent again in a moment.",
  model_unavailable: "Your twin cannot think right now. Your message is safe.",
  model_timeout: "Your twin took too long. Your message is safe.",
  too_large: "That is too long.",
  forbidden: "Your token does not allow this.",
  auth_expired: "Your token has expired.",
  auth_invalid: "This token is not accepted.",
  auth_missing: "A token is needed.",
  auth_forbidden: "This token may not chat.",
  auth_user_mismatch: "This token belongs to somebody else.",
  session_invalid: "The session's id is not accepted.",
  too_many_sessions: "Too many of your devices are here already.",
  draining: "The server is about to restart.",
  unavailable: "The service is not available right now.",
};

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- what is known ---------------------------------------------------------------------------------------------------

class Conversation {
  constructor() {
    this.lastSeq = null; // the newest seq that was applied; null until the server has said where the log stands
    this.resuming = false;
    this.forget();
  }

  forget() {
    this.messages = new Map(); // message_id -> {id, role, text, state, seq, timestamp, inResponseTo, feedback, from}
    this.drafts = new Map(); // the user's message_id -> {generation, text, next}
    this.over = new Set(); // generations that have ended or were replaced
    this.thinking = new Map(); // the user's message_id -> state
    this.hasMore = false;
    this.wantsHistory = true;
  }

  // As every device shows it: what is stored by seq, then what is being written, then what is not stored yet.
  inOrder() {
    const all = [...this.messages.values()];
    const stored = all.filter((message) => message.seq !== null).sort((a, b) => a.seq - b.seq);
    const drafts = [...this.drafts].map(([inResponseTo, draft]) => ({
      id: `draft-${draft.generation}`,
      role: "twin",
      state: "streaming",
      text: draft.text,
      seq: null,
      inResponseTo,
    }));
    return [...stored, ...drafts, ...all.filter((message) => message.seq === null)];
  }

  put(id, fields) {
    const known = this.messages.get(id);
    const fresh = { id, seq: null, timestamp: null, inResponseTo: null, feedback: null, from: null };
    this.messages.set(id, { ...fresh, ...known, ...fields });
  }

  // The session's first event. Where the log began again (the user was erased), all is forgotten with it.
  ready(seq) {
    this.thinking.clear();
    if (this.lastSeq !== null && seq >= this.lastSeq) return;
    const unsent = [...this.messages.values()].filter((message) => message.seq === null);
    this.forget();
    for (const message of unsent) this.messages.set(message.id, message);
    this.lastSeq = seq;
  }

  // "next", "old" or "hole"; only "next" moves the mark.
  place(seq) {
    if (seq === undefined || this.lastSeq === null) return "next";
    if (seq <= this.lastSeq) return "old";
    if (seq > this.lastSeq + 1) return "hole";
    this.lastSeq = seq;
    return "next";
  }

  // Applies one envelope. True where something was missed and `resume` must be sent.
  receive({ type, payload, metadata }) {
    const here = (metadata.conversation_id ?? CONVERSATION) === CONVERSATION;
    if (type === "message_received") {
      const message = this.messages.get(payload.message_id);
      if (message?.role === "user" && message.seq === null) {
        this.put(message.id, { seq: metadata.seq ?? null, state: "stored", timestamp: metadata.timestamp });
      }
      return this.place(metadata.seq) === "hole";
    }
    if (DURABLE.has(type)) {
      const place = this.place(metadata.seq);
      if (place === "hole") return true;
      // The repeat of an old message brings its old answer once more: news to a page that was reloaded.
      const isNews = type.endsWith("_message") && !this.messages.has(metadata.message_id);
      if (here && (place === "next" || isNews)) this.durable(type, payload, metadata);
      return false;
    }
    if (type === "twin_message_chunk" && here) return this.chunk(payload, metadata.in_response_to);
    if (type === "twin_thinking" && here) {
      if (payload.state === "done") this.thinking.delete(metadata.in_response_to);
      else this.thinking.set(metadata.in_response_to, payload.state);
    }
    if (type === "history" && (payload.conversation_id ?? CONVERSATION) === CONVERSATION) this.page(payload);
    return false;
  }

  durable(type, payload, metadata) {
    const at = { seq: metadata.seq ?? null, timestamp: metadata.timestamp };
    if (type === "user_message") {
      this.put(metadata.message_id, { ...at, role: "user", state: "stored", text: payload.text, from: metadata.session_id });
    } else if (type === "twin_message") {
      const inResponseTo = metadata.in_response_to ?? null;
      this.over.add(payload.generation_id);
      this.drafts.delete(inResponseTo);
      this.thinking.delete(inResponseTo);
      this.put(metadata.message_id, { ...at, role: "twin", state: payload.status, text: payload.text, inResponseTo });
    } else if (type === "feedback") {
      this.rate(payload.message_id, payload.rating);
    }
  }

  rate(messageId, rating) {
    if (this.messages.has(messageId)) this.put(messageId, { feedback: rating === "none" ? null : rating });
  }

  chunk(payload, inResponseTo) {
    const { generation_id: generation, chunk_index: index, text } = payload;
    const first = payload.first_chunk_index ?? index;
    if (this.over.has(generation)) return false;
    const draft = this.drafts.get(inResponseTo);
    const isRunning = draft?.generation === generation;
    if (isRunning && index < draft.next) return false; // seen
    this.thinking.delete(inResponseTo);
    if (first === 0) {
      if (draft && !isRunning) this.over.add(draft.generation);
      this.drafts.set(inResponseTo, { generation, text, next: index + 1 });
      return false;
    }
    if (!isRunning || first !== draft.next) return true;
    draft.text += text;
    draft.next = index + 1;
    return false;
  }

  page({ messages, has_more: hasMore }) {
    this.wantsHistory = false;
    const oldest = Math.min(...[...this.messages.values()].map((message) => message.seq ?? Infinity));
    if (messages.length === 0 || messages[0].seq < oldest) this.hasMore = hasMore;
    for (const said of messages) {
      const rating = said.feedback?.rating ?? said.feedback ?? null;
      this.put(said.message_id, {
        role: said.role,
        text: said.text,
        seq: said.seq,
        timestamp: said.timestamp,
        inResponseTo: said.in_response_to ?? null,
        state: said.role === "twin" ? (said.status ?? "complete") : "stored",
        feedback: rating === "none" ? null : rating,
        from: said.session_id ?? null,
      });
      const draft = this.drafts.get(said.in_response_to);
      if (draft && draft.generation === said.generation_id) this.drafts.delete(said.in_response_to);
    }
  }
}

// -- the line --------------------------------------------------------------------------------------------------------

class Session {
  constructor(conversation, view) {
    this.conversation = conversation;
    this.view = view;
    this.token = takeToken();
    this.id = takeSessionId();
    this.outbox = new Map(); // message_id -> {type, payload, metadata, due}: what the server has not answered
    this.heartbeat = null;
    this.socket = window.io({
      autoConnect: false,
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      auth: (give) => give(this.handshake()),
    });
    this.socket.on("connect_error", (error) => this.refused(error));
    this.socket.on("disconnect", (reason) => this.disconnected(reason));
    this.socket.onAny((type, envelope) => this.receive({ type, ...envelope }));
    for (const event of JSON.parse(sessionStorage.getItem("outbox") ?? "[]")) this.keep(event);
    setInterval(() => this.sendAgain(), 1000);
  }

  open(token) {
    if (token) {
      this.token = token;
      sessionStorage.setItem("token", token);
    }
    if (!this.token) {
      this.view.connection("refused", ERRORS.auth_missing);
      this.view.signIn();
      return;
    }
    this.view.connection("connecting", "Connecting …");
    this.socket.disconnect().connect();
  }

  // A token that is given while the old one still holds needs no new connection.
  useToken(token) {
    if (!this.socket.connected) return this.open(token);
    this.token = token;
    sessionStorage.setItem("token", token);
    return this.send("auth_refresh", { token });
  }

  handshake() {
    const { lastSeq } = this.conversation;
    return {
      token: this.token,
      session_id: this.id,
      device: { name: deviceName(), platform: "web" },
      ...(lastSeq === null ? {} : { last_seq: lastSeq }),
    };
  }

  refused(error) {
    const { code, retryable, retry_after_ms: wait } = error.data ?? {};
    if (this.socket.active) {
      this.view.connection("offline", "Offline, trying again …");
    } else if (["auth_missing", "auth_invalid", "auth_expired", "auth_user_mismatch"].includes(code)) {
      this.view.connection("refused", ERRORS[code]);
      this.view.signIn(ERRORS[code]);
    } else if (retryable) {
      this.view.connection("offline", ERRORS[code] ?? error.message);
      setTimeout(() => this.socket.connect(), (wait ?? 2000) * (1 + Math.random() / 2));
    } else {
      this.view.connection("refused", ERRORS[code] ?? error.message);
    }
  }

  disconnected(reason) {
    clearInterval(this.heartbeat);
    this.conversation.resuming = false;
    this.view.offline();
    if (reason === "io server disconnect") {
      this.view.connection("refused", "This session was ended, or goes on in another tab.", () => this.open());
    } else {
      this.view.connection("offline", "Offline, trying again …");
    }
  }

  receive(envelope) {
    const { type, payload, metadata } = envelope;
    if (type === "session_ready") this.ready(payload);
    if (type === "message_received") this.settle(payload.message_id);
    if (type === "resumed") this.resumed(payload);
    if (type === "heartbeat_ack" && payload.head_seq > this.conversation.lastSeq) this.resume(true);
    if (type === "resync") this.resume(true);
    if (type === "server_draining") setTimeout(() => this.open(), payload.reconnect_after_ms);
    if (type === "error") this.failed(payload, metadata.in_response_to);
    if (this.conversation.receive(envelope)) this.resume();
    this.view.received(envelope);
  }

  ready(payload) {
    const { lastSeq } = this.conversation;
    this.view.connection("online", `Connected as ${payload.user_id}`);
    this.conversation.ready(payload.seq);
    if (this.conversation.wantsHistory) this.send("history", { limit: 50 });
    this.conversation.resuming = lastSeq !== null; // asked for in the handshake
    for (const event of this.outbox.values()) this.emit(event);
    clearInterval(this.heartbeat);
    this.heartbeat = setInterval(() => this.send("heartbeat", {}), payload.heartbeat_interval_ms);
  }

  resume(evenIfAsked = false) {
    if (this.conversation.resuming && !evenIfAsked) return;
    this.conversation.resuming = true;
    this.send("resume", { last_seq: this.conversation.lastSeq ?? 0 });
  }

  resumed({ through_seq: throughSeq, complete }) {
    this.conversation.resuming = false;
    this.conversation.lastSeq = Math.max(this.conversation.lastSeq, throughSeq);
    if (!complete) this.send("history", { limit: 200 }); // what is too old to be resumed
  }

  async get(path) {
    const response = await fetch(path, { headers: { Authorization: `Bearer ${this.token}` } });
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }

  send(type, payload, messageId = newId()) {
    const event = {
      type,
      payload,
      metadata: { message_id: messageId, conversation_id: CONVERSATION, timestamp: new Date().toISOString() },
    };
    this.emit(event);
    return event;
  }

  // Sent until the server has it: over reconnects, and over a reload of the page.
  sendForSure(type, payload, messageId = newId()) {
    this.keep({ type, payload, metadata: { message_id: messageId, conversation_id: CONVERSATION } });
    this.emit(this.outbox.get(messageId));
    this.saveOutbox();
  }

  keep(event) {
    this.outbox.set(event.metadata.message_id, event);
    if (event.type !== "user_message") return;
    this.conversation.put(event.metadata.message_id, { role: "user", text: event.payload.text, state: "sending" });
  }

  emit(event) {
    event.due = Date.now() + SEND_AGAIN_MS;
    const { type, payload, metadata } = event;
    if (this.socket.connected) this.socket.emit(type, { type, payload, metadata });
  }

  sendAgain() {
    for (const event of this.outbox.values()) if (event.due < Date.now()) this.emit(event);
  }

  settle(messageId) {
    if (this.outbox.delete(messageId)) this.saveOutbox();
  }

  saveOutbox() {
    sessionStorage.setItem("outbox", JSON.stringify([...this.outbox.values()]));
  }

  failed(error, messageId) {
    const event = this.outbox.get(messageId);
    if (event && error.retryable) {
      event.due = Date.now() + (error.retry_after_ms ?? 2000);
    } else if (event) {
      this.settle(messageId);
      const message = this.conversation.messages.get(messageId);
      if (message?.seq === null) this.conversation.put(messageId, { state: "failed" });
    }
    if (error.code === "auth_expired") this.view.signIn(ERRORS.auth_expired);
    this.view.toast(ERRORS[error.code] ?? error.message, error.code);
  }
}

// From the fragment, which is never sent to a server, and then out of sight; a reload finds it in the tab's storage.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return given ?? sessionStorage.getItem("token");
}

// One per tab, kept over reloads. A duplicated tab starts with a copy of its origin's storage: it must not take the
// origin's session from it, so an id that is in use is not taken.
function takeSessionId() {
  const known = sessionStorage.getItem("session_id");
  const id = known && !sessionStorage.getItem("in_use") ? known : `web-${newId()}`;
  sessionStorage.setItem("session_id", id);
  sessionStorage.setItem("in_use", "yes");
  addEventListener("pagehide", () => sessionStorage.removeItem("in_use"));
  addEventListener("pageshow", () => sessionStorage.setItem("in_use", "yes"));
  return id;
}

function deviceName() {
  const agent = navigator.userAgent;
  const find = (names) => names.find((name) => agent.includes(name));
  const browser = { Edg: "Edge", Chrome: "Chrome", Firefox: "Firefox", Safari: "Safari" }[find(["Edg", "Chrome", "Firefox", "Safari"])];
  const system = find(["Android", "iPhone", "iPad", "Windows", "Mac", "Linux"]);
  return `${browser ?? "Browser"}${system ? ` on ${system}` : ""}`;
}

// -- what is shown ---------------------------------------------------------------------------------------------------

const element = (id) => document.getElementById(id);

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Drawn, because not every machine has a font with the sign. Style sheets turn it for the other.
function thumb() {
  const space = "http://www.w3.org/2000/svg";
  const sign = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  sign.setAttribute("viewBox", "0 0 24 24");
  sign.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M3 10h3v10H3z M9 20h8.5l3-7v-3H14l.8-5-1.6-1.5L9 10z");
  sign.append(path);
  return sign;
}

class View {
  constructor(conversation) {
    this.conversation = conversation;
    this.items = new Map(); // message id -> its <li>
    this.devices = [];
    this.typists = new Map(); // session id -> when to stop believing it
    this.isDue = false;
    this.lastRead = null;
    this.amTyping = 0;
  }

  attach(session) {
    this.session = session;
    const text = element("text");
    element("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.say(text.value);
    });
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.say(text.value);
    });
    text.addEventListener("input", () => this.typing(text.value !== ""));
    text.addEventListener("blur", () => this.typing(false));
    element("stop").addEventListener("click", (event) => session.send("stop_generation", { message_id: event.target.value }));
    element("earlier").addEventListener("click", () => {
      const [oldest] = this.conversation.inOrder();
      session.send("history", { before: oldest?.id, limit: 50 });
    });
    element("open-profile").addEventListener("click", () => {
      element("profile").showModal();
      session.send("profile_get", {});
    });
    element("profile").addEventListener("click", (event) => {
      if (event.target === event.currentTarget) event.target.close(); // beside the drawer
    });
    element("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      element("sign-in").close();
      session.useToken(element("token").value.trim());
      element("token").value = "";
    });
    addEventListener("hashchange", () => {
      const token = takeToken();
      if (token) location.reload();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      session.send("heartbeat", {}); // tells whether something was missed while the tab slept
      this.draw();
    });
    setInterval(() => this.showTyping(), 1000);
    this.draw();
  }

  say(text) {
    if (text.trim() === "") return;
    element("text").value = "";
    this.typing(false);
    this.session.sendForSure("user_message", { text });
    this.follow = true;
    this.draw();
  }

  typing(isTyping) {
    const now = Date.now();
    clearTimeout(this.typingEnds);
    if (isTyping) this.typingEnds = setTimeout(() => this.typing(false), TYPING_MS);
    if (isTyping ? now - this.amTyping < TYPING_MS - 1000 : this.amTyping === 0) return;
    this.amTyping = isTyping ? now : 0;
    this.session.send("typing_indicator", { is_typing: isTyping });
  }

  received({ type, payload, metadata }) {
    if (type === "session_ready") {
      this.showDevices(payload.sessions);
      element("open-profile").disabled = false;
    }
    if (type === "presence") this.showDevices(payload.sessions);
    if (type === "history" && this.lastRead === null) {
      this.lastRead = Math.max(0, ...payload.messages.map((message) => message.seq)); // was there before, so was read
    }
    if (type === "typing_indicator") {
      if (payload.is_typing) this.typists.set(metadata.session_id, Date.now() + TYPING_MS + 2000);
      else this.typists.delete(metadata.session_id);
      this.showTyping();
    }
    if (type === "user_message") this.typists.delete(metadata.session_id);
    if (type === "profile") this.showProfile(payload);
    if (type === "message_received") this.rated(payload.traits ?? []);
    if (type === "profile_update") this.learned(payload);
    if (type === "auth_expiring") this.signIn("Your token ends soon. A fresh one keeps the chat open.");
    if (type === "auth_refreshed") this.toast("The fresh token is in use.");
    this.draw();
  }

  connection(state, text, again) {
    const line = element("connection");
    line.dataset.state = state;
    line.textContent = text;
    if (!again) return;
    const button = make("button", "", "Use it here");
    button.type = "button";
    button.addEventListener("click", again);
    line.append(" ", button);
  }

  offline() {
    this.typists.clear();
    this.showTyping();
    this.draw();
  }

  signIn(why) {
    if (why) element("sign-in-why").textContent = `${why} In development you mint a token yourself:`;
    if (!element("sign-in").open) element("sign-in").showModal();
  }

  toast(text, code) {
    const toast = make("p", "toast", text);
    if (code) toast.dataset.code = code;
    element("toasts").append(toast);
    setTimeout(() => toast.remove(), 6000);
  }

  // Many chunks a second, one drawing a frame. A page in the background gets no frames, and is drawn all the same.
  draw() {
    if (this.isDue) return;
    this.isDue = true;
    const now = () => {
      this.isDue = false;
      this.drawNow();
    };
    if (document.visibilityState === "visible") requestAnimationFrame(now);
    else setTimeout(now, 100);
  }

  drawNow() {
    const { conversation } = this;
    const main = document.querySelector("main");
    const isAtEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 60;
    const height = main.scrollHeight;
    const messages = conversation.inOrder();
    const hadEarlier = this.items.size > 0 && messages.length > 0 && !this.items.has(messages[0].id);
    this.showMessages(messages);
    if (isAtEnd || this.follow) main.scrollTop = main.scrollHeight;
    else if (hadEarlier) main.scrollTop += main.scrollHeight - height; // what was read stays where it was
    this.follow = false;

    const running = [...conversation.drafts.keys(), ...conversation.thinking.keys()];
    element("stop").hidden = running.length === 0;
    element("stop").value = running[0] ?? "";
    const states = [...conversation.thinking.values()].filter((state) => state !== "queued");
    element("thinking").hidden = conversation.thinking.size === 0 || conversation.drafts.size > 0;
    element("thinking").dataset.state = states[0] ?? "queued";
    element("thinking-text").textContent =
      { recalling: "Your twin is remembering", thinking: "Your twin is thinking" }[states[0]] ?? "Your twin will answer";
    element("earlier").hidden = !conversation.hasMore;
    element("empty").hidden = messages.length > 0 || conversation.lastSeq === null;
    this.tellRead(messages);
  }

  showMessages(messages) {
    const list = element("messages");
    const texts = new Map(messages.map((message) => [message.id, message.text]));
    const newest = new Map(messages.filter((m) => m.inResponseTo).map((m) => [m.inResponseTo, m.id]));
    const shown = new Set();
    let before = null;
    let place = list.firstElementChild;
    for (const message of messages) {
      const item = this.items.get(message.id) ?? this.newItem(message, texts);
      shown.add(message.id);
      if (item === place) place = place.nextElementSibling;
      else list.insertBefore(item, place);
      this.fill(item, message);
      const again = item.querySelector(".again");
      if (again) again.hidden = message.state === "streaming" || message !== messages.at(-1);
      item.toggleAttribute("data-superseded", newest.get(message.inResponseTo ?? "") !== message.id && !!message.inResponseTo);
      const about = item.querySelector(".about");
      if (about) about.hidden = before === message.inResponseTo;
      before = message.id;
    }
    for (const [id, item] of this.items) {
      if (shown.has(id)) continue;
      item.remove();
      this.items.delete(id);
    }
  }

  newItem(message, texts) {
    const item = make("li", "message");
    item.dataset.messageId = message.id;
    item.dataset.role = message.role;
    const quoted = texts.get(message.inResponseTo);
    if (quoted) item.append(make("p", "about", `on “${quoted.length > 60 ? `${quoted.slice(0, 60)}…` : quoted}”`));
    const foot = make("div", "foot");
    foot.append(make("span", "who"), make("time"), make("span", "note"));
    item.append(make("p", "text"), foot);
    if (message.role === "twin") foot.append(...this.answerButtons(message));
    this.items.set(message.id, item);
    return item;
  }

  answerButtons(message) {
    const rate = (rating, label) => {
      const button = make("button", "rate");
      button.append(thumb());
      button.type = "button";
      button.dataset.rating = rating;
      button.setAttribute("aria-label", label);
      button.addEventListener("click", () => {
        const wanted = this.conversation.messages.get(message.id)?.feedback === rating ? "none" : rating;
        this.session.sendForSure("feedback", { message_id: message.id, rating: wanted });
        this.conversation.rate(message.id, wanted);
        if (wanted === "down") this.askForCorrection(message.id);
        else this.items.get(message.id)?.querySelector(".correction")?.remove();
        this.draw();
      });
      return button;
    };
    const again = make("button", "again", "Again");
    again.setAttribute("aria-label", "Answer again");
    again.type = "button";
    again.addEventListener("click", () => this.session.sendForSure("regenerate", { message_id: message.inResponseTo }));
    return [rate("up", "Good answer"), rate("down", "Bad answer"), again];
  }

  // After a thumb down: what would have been right, in the user's own words, if they like.
  askForCorrection(id) {
    const item = this.items.get(id);
    if (!item || item.querySelector(".correction")) return;
    const form = make("form", "correction");
    const input = make("input");
    Object.assign(input, { placeholder: "What would be right?", maxLength: 8000, required: true });
    input.setAttribute("aria-label", "What would be right?");
    const [send, skip] = [make("button", "", "Tell it"), make("button", "", "Skip")];
    send.type = "submit";
    skip.type = "button";
    skip.addEventListener("click", () => form.remove());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.session.sendForSure("feedback", { message_id: id, rating: "down", correction: input.value });
      form.remove();
    });
    form.append(input, send, skip);
    item.append(form);
    input.focus();
  }

  fill(item, message) {
    const set = (node, text) => {
      if (node.textContent !== text) node.textContent = text;
    };
    item.dataset.state = message.state;
    if (message.seq !== null) item.dataset.seq = message.seq;
    const isFinal = message.role === "twin" && message.state !== "streaming";
    item.setAttribute("aria-busy", String(message.state === "streaming"));
    set(item.querySelector(".text"), message.text);
    set(item.querySelector(".who"), message.role === "twin" ? "Your twin" : this.speaker(message));
    const time = item.querySelector("time");
    const at = message.timestamp ? new Date(message.timestamp) : null;
    set(time, at ? at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "");
    if (at) time.dateTime = message.timestamp;
    const notes = { sending: "sending …", failed: "not sent", stopped: "stopped", interrupted: "cut short" };
    set(item.querySelector(".note"), message.role === "twin" && message.state === "failed" ? "failed" : (notes[message.state] ?? ""));
    for (const button of item.querySelectorAll(".rate")) {
      button.hidden = !isFinal;
      button.setAttribute("aria-pressed", String(message.feedback === button.dataset.rating));
    }
  }

  speaker(message) {
    if (!message.from || message.from === this.session.id) return "You";
    return `You, ${this.nameOf(message.from)}`;
  }

  nameOf(sessionId) {
    const found = this.devices.find((device) => device.session_id === sessionId);
    return found?.device?.name ?? "another device";
  }

  showDevices(sessions) {
    const isOwn = (device) => device.session_id === this.session.id;
    this.devices = [...(sessions ?? [])].sort((a, b) => isOwn(b) - isOwn(a));
    element("devices").replaceChildren(
      ...this.devices.map(({ session_id: id, device }) => {
        const item = make("li", "", id === this.session.id ? "this device" : (device?.name ?? "a device"));
        item.dataset.sessionId = id;
        if (id === this.session.id) item.dataset.own = "";
        return item;
      }),
    );
  }

  showTyping() {
    for (const [id, until] of this.typists) if (until < Date.now()) this.typists.delete(id);
    const [id] = this.typists.keys();
    element("typing").hidden = id === undefined;
    element("typing").textContent = id === undefined ? "" : `You are typing on ${this.nameOf(id)} …`;
  }

  // What the user has seen here counts as read on all devices.
  tellRead(messages) {
    const last = messages.findLast((message) => message.role === "twin" && message.seq !== null);
    const isSeen = document.visibilityState === "visible" && this.session.socket.connected;
    if (!isSeen || this.lastRead === null || !last || last.seq <= this.lastRead) return;
    this.lastRead = last.seq;
    this.session.send("read_receipt", { message_id: last.id });
  }

  learned({ changes }) {
    for (const { key, value, status } of changes.slice(0, 3)) {
      if (status === "applied") this.toast(`Your twin now knows: ${key.replaceAll("_", " ")}, ${value}`);
    }
    if (element("profile").open) this.session.send("profile_get", {});
  }

  rated(traits) {
    for (const { key, value, confidence } of traits.slice(0, 3)) {
      this.toast(`${key.replaceAll("_", " ")}, ${value}: now ${Math.round(confidence * 100)} % sure`);
    }
  }

  // Drawn anew with every change; what the user has open, is writing or stands on stays as it is.
  showProfile({ traits }) {
    const list = element("traits");
    if (list.querySelector("form.edit")) return; // it is asked for again when the form closes
    const opened = new Set([...list.querySelectorAll("details[open]")].map((why) => why.closest("li").dataset.traitId));
    const focus = document.activeElement?.closest?.("#traits li") && {
      trait: document.activeElement.closest("li").dataset.traitId,
      action: document.activeElement.dataset.action,
    };
    const holds = ({ status }) => !["rejected", "superseded"].includes(status);
    const order = [...traits].sort((a, b) => holds(b) - holds(a) || b.confidence - a.confidence);
    element("profile-empty").hidden = traits.length > 0;
    list.replaceChildren(...order.map((trait) => this.trait(trait, opened.has(trait.trait_id))));
    if (!focus) return;
    const item = list.querySelector(`[data-trait-id="${CSS.escape(focus.trait)}"]`);
    const same = item?.querySelector(`[data-action="${focus.action}"]`);
    (same && !same.hidden ? same : (item?.querySelector("summary") ?? element("profile-close"))).focus();
  }

  trait(trait, isOpen) {
    const { trait_id: id, key, value, status, confidence } = trait;
    const item = make("li");
    item.dataset.traitId = id;
    item.dataset.status = status;
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: 1, low: 0.55, high: 0.8, optimum: 1, value: confidence });
    meter.setAttribute("aria-label", `How sure it is of ${key}`);
    const row = make("div", "row");
    row.append(meter, make("span", "sure", `${Math.round(confidence * 100)} %, ${status}`));
    const actions = make("div", "row");
    const act = (action, label, run) => {
      const button = make("button", "", label);
      button.type = "button";
      button.dataset.action = action;
      button.setAttribute("aria-label", `${label}: ${key} ${value}`);
      button.addEventListener("click", run);
      actions.append(button);
    };
    act("confirm", "Right", () => this.correct(id, "confirm"));
    if (status !== "rejected") act("reject", "Wrong", () => this.correct(id, "reject"));
    act("edit", "Change", () => item.replaceChildren(name, this.editor(trait)) || item.querySelector("input").select());
    const name = make("p", "key", key.replaceAll("_", " "));
    item.append(name, make("p", "value", value), row, this.reasons(id, isOpen), actions);
    return item;
  }

  correct(id, action, value) {
    this.session.send("profile_correct", { trait_id: id, action, ...(value === undefined ? {} : { value }) });
  }

  editor({ trait_id: id, key, value }) {
    const form = make("form", "edit");
    const input = make("input");
    Object.assign(input, { value, required: true, maxLength: 500 });
    input.setAttribute("aria-label", `What holds instead: ${key}`);
    const [save, cancel] = [make("button", "", "Save"), make("button", "", "Cancel")];
    save.type = "submit";
    cancel.type = "button";
    const close = () => {
      form.remove();
      this.session.send("profile_get", {});
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.correct(id, "edit", input.value.trim() || value);
      close();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // closes the form, not the drawer
      close();
    });
    cancel.addEventListener("click", close);
    form.append(input, save, cancel);
    return form;
  }

  // Fetched when they are asked for: each piece of evidence with the user's own words and what it weighs.
  reasons(id, isOpen) {
    const why = make("details");
    const list = make("ul");
    why.append(make("summary", "", "Why?"), list);
    why.addEventListener("toggle", async () => {
      if (!why.open || list.childElementCount > 0) return;
      try {
        const { evidence } = await this.session.get(`/v1/profile/${encodeURIComponent(id)}/why`);
        list.replaceChildren(...evidence.map((piece) => this.reason(piece)));
      } catch {
        why.open = false;
        this.toast("The reasons could not be fetched.", "unavailable");
      }
    });
    why.open = isOpen;
    return why;
  }

  reason({ side, kind, quote, effective, observed_at: at }) {
    const item = make("li");
    item.dataset.side = side;
    const said = { confirmed: "You said that it is right", rejected: "You said that it is wrong", edited: "You wrote it" };
    const rated = { up: "You liked an answer that used it", down: "You disliked an answer that used it" };
    item.append(make(quote ? "q" : "span", "quote", quote || said[kind] || rated[kind] || kind));
    const weight = { supports: `+${effective.toFixed(2)}`, opposes: `−${effective.toFixed(2)}`, set_aside: "not counted" };
    const day = new Date(at).toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
    item.append(make("span", "weight", ` ${weight[side]} · ${kind}, ${day}`));
    return item;
  }
}

const conversation = new Conversation();
const view = new View(conversation);
if (window.io) {
  const session = new Session(conversation, view);
  view.attach(session);
  session.open();
} else {
  view.connection("refused", "The socket.io client is not installed: run `make setup`, then reload.");
}
