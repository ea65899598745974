// One conversation, as the chat page and the widget show it: its messages, and the field in which one writes.
// It shows the client's state and keeps none of its own but what is only here: a choice among answers, an open form.
import { conversation } from "./twin-client.js";
import { showMarkdown } from "./markdown.js";
import { Composer } from "./composer.js";
import { button, copied, count, directed, isTouch, make, setText, sign, toast, errorText } from "./view.js";

const NEAR_END_PX = 80;
const PAGES_BACK = 250; // of 200 messages: as far back as a search finds anything
const REASONS = { wrong: "Not true", not_me: "Not like me", too_long: "Too long", off_topic: "Beside the point" };
const CUTS = { length: "Cut off: it reached its longest length.", content_filter: "Cut off by the rules of the model’s provider." };
const REASON_MAX = { correction: 8000, comment: 2000 };
const NOTES = { sending: "Sending …", refused: "Not sent", stopped: "Stopped", interrupted: "Cut short", failed: "" };
const THINKING = { queued: "Your twin will answer", recalling: "Your twin is remembering", thinking: "Your twin is thinking" };

export class ConversationView {
  // `root` is emptied and filled; `highlight` as showMarkdown wants it; `user` is who is here, where that is known
  // before the session is.
  constructor(root, client, { conversationId = "main", highlight, user = null } = {}) {
    this.client = client;
    this.user = user;
    this.highlight = highlight;
    this.items = new Map(); // key of an item -> {node, drawn}
    this.chosen = new Map(); // the user's message id -> the id of the answer that is looked at
    this.days = new Map(); // a day -> the line that begins it
    this.build(root);
    this.open(conversationId);
    this.unsubscribe = client.subscribe(() => this.draw());
    this.onVisible = () => this.draw();
    document.addEventListener("visibilitychange", this.onVisible);
  }

  // Leave the page as it is, but follow the client no more.
  close() {
    this.unsubscribe();
    this.composer.close();
    document.removeEventListener("visibilitychange", this.onVisible);
  }

  // Show this conversation from now on.
  open(id) {
    Object.assign(this, { id, asked: false, newFrom: null, seenSeq: null, unread: null, follow: true });
    this.items.clear();
    this.days.clear();
    this.list.replaceChildren();
    this.composer.open();
    this.draw();
  }

  get here() {
    return conversation(this.client.state, this.id);
  }

  build(root) {
    this.earlier = button("earlier", "Earlier messages", () => this.older());
    this.empty = make("p", "empty", "Say something to your twin. What you write here shows on all your devices.");
    this.list = make("ol", "messages");
    this.list.setAttribute("aria-label", "Conversation");
    this.thinkingText = make("span");
    const dots = make("span", "dots", make("i"), make("i"), make("i"));
    dots.setAttribute("aria-hidden", "true");
    this.thinking = make("p", "thinking", dots, this.thinkingText);
    this.typing = make("p", "typing");
    this.scroll = make("div", "scroll", make("div", "column", this.earlier, this.empty, this.list, this.thinking, this.typing));
    this.scroll.tabIndex = 0;
    this.scroll.setAttribute("role", "region");
    this.scroll.setAttribute("aria-label", "Messages");
    this.scroll.addEventListener("scroll", () => (this.follow = this.isAtEnd()), { passive: true });
    this.down = button("down", "To the newest message", () => this.toEnd(), sign("next"));
    this.announcer = make("p", "unseen");
    this.announcer.setAttribute("role", "status");
    this.toasts = make("div", "toasts");
    this.toasts.setAttribute("role", "alert");
    this.composer = new Composer(this);
    root.replaceChildren(this.scroll, make("div", "over", this.down), this.toasts, this.composer.form, this.announcer);
  }

  // -- what the user does ---------------------------------------------------------------------------------------------

  said() {
    this.newFrom = null;
    this.toEnd();
  }

  stopAnswer(messageId) {
    this.client.stop(messageId).catch((error) => this.say(errorText(error), error.code));
  }

  // Where one writes; on a phone nothing happens.
  focus() {
    this.composer.focus();
  }

  async older() {
    const first = this.here.messages.find((message) => message.seq !== null);
    try {
      await this.client.history({ conversationId: this.id, before: first?.id });
    } catch (error) {
      this.say(errorText(error), error.code);
    }
  }

  // Show this message, wherever in the conversation it stands, and give it the focus.
  async reveal(messageId) {
    const { id } = this;
    this.follow = false;
    const isThere = () => this.here.messages.some((message) => message.id === messageId);
    try {
      for (let page = 0; page < PAGES_BACK && !isThere() && this.here.hasMore !== false; page++) {
        const first = this.here.messages.find((message) => message.seq !== null);
        await this.client.history({ conversationId: id, before: first?.id, limit: 200 });
        if (id !== this.id) return;
      }
    } catch (error) {
      this.say(errorText(error), error.code);
    }
    const message = this.here.messages.find((one) => one.id === messageId);
    if (!message) return this.say("It is not there any more.");
    const about = message.role === "twin" ? message.inResponseTo : null;
    if (about) this.chosen.set(about, messageId);
    this.follow = false;
    this.drawNow();
    const item = this.items.get(about ? `answer-${about}` : messageId);
    item.tabIndex = -1;
    item.scrollIntoView({ block: "center" });
    item.focus({ preventScroll: true });
  }

  async rate(message, rating, item, reasons) {
    const { receipt } = this.client.feedback(message.id, rating, reasons);
    item.querySelector(".reasons")?.remove();
    if (rating === "down" && !reasons) this.askWhy(message, item);
    try {
      for (const trait of ((await receipt).traits ?? []).slice(0, 3)) {
        this.say(`${named(trait.key)}, ${valueOf(trait)}: now ${Math.round(trait.confidence * 100)} % sure`);
      }
    } catch (error) {
      this.say(errorText(error), error.code);
    }
  }

  // After a thumb down: what was wrong, and what would have been right, in the user's own words, if they like.
  askWhy(message, item) {
    const form = make("form", "reasons");
    form.setAttribute("aria-label", "What was wrong with it?");
    const tags = Object.entries(REASONS).map(([tag, label]) => {
      const box = make("input");
      Object.assign(box, { type: "checkbox", name: "tag", value: tag });
      return make("label", "tag", box, label);
    });
    const correction = field("correction", "What would be right?");
    const comment = field("comment", "Anything else?");
    const close = () => form.remove();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const given = new FormData(form);
      const filled = ["correction", "comment"].map((name) => [name, given.get(name).trim()]).filter(([, text]) => text);
      const long = filled.find(([name, text]) => count(text) > REASON_MAX[name]);
      if (long) return this.say(`That is too long: at most ${REASON_MAX[long[0]].toLocaleString()} characters.`, "too_large");
      this.rate(message, "down", item, { ...Object.fromEntries(filled), tags: given.getAll("tag") });
      close();
      this.focus();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing || event.keyCode === 229) return;
      event.stopPropagation();
      close();
      item.querySelector("[data-rating=down]").focus();
    });
    const tell = make("button", "", "Tell it");
    tell.type = "submit";
    form.append(make("div", "tags", ...tags), correction, comment, make("div", "row", tell, button("quiet", "Skip", close)));
    item.append(form);
    if (!isTouch()) correction.focus({ preventScroll: true });
    form.scrollIntoView({ block: "nearest" });
  }

  say(text, code) {
    toast(this.toasts, text, code);
  }

  // -- what is shown --------------------------------------------------------------------------------------------------

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
    const { here } = this;
    this.load(here);
    const height = this.scroll.scrollHeight;
    const items = arranged(here.messages);
    const hadEarlier = this.items.size > 0 && items.length > 0 && !this.items.has(items[0].key);
    const follow = this.follow;
    this.marks(here);
    this.showItems(items, here);
    this.showRunning(here);
    this.earlier.hidden = !here.hasMore;
    this.empty.hidden = here.messages.length > 0 || here.hasMore === null;
    if (follow) this.scroll.scrollTop = this.scroll.scrollHeight;
    else if (hadEarlier) this.scroll.scrollTop += this.scroll.scrollHeight - height; // what was read stays where it was
    this.down.hidden = this.isAtEnd();
    this.tellRead(here);
  }

  // Asked for once the line is there, and again where the answer was lost with it.
  load(here) {
    if (this.asked || this.client.state.connection !== "online" || (here.hasMore !== null && this.unread !== null)) return;
    this.asked = true;
    const { id } = this;
    Promise.all([this.client.conversations(), here.hasMore === null && this.client.history({ conversationId: id })])
      .then(([list]) => {
        if (id === this.id) this.unread = list.find((line) => line.conversation_id === id)?.unread ?? 0;
      })
      .catch(() => undefined)
      .finally(() => {
        if (id === this.id) this.asked = false;
        this.draw();
      });
  }

  // Where the news begins, and how far was read: as it was when the conversation was opened.
  marks(here) {
    if (this.seenSeq !== null || this.unread === null || here.hasMore === null) return;
    const answers = here.messages.filter((message) => message.role === "twin" && message.seq !== null);
    const news = answers.slice(Math.max(0, answers.length - this.unread));
    this.newFrom = this.unread > 0 ? (news[0]?.id ?? null) : null;
    this.seenSeq = answers.at(-1 - news.length)?.seq ?? 0;
  }

  showItems(items, here) {
    const questions = new Map(here.messages.map((message) => [message.id, message]));
    const seen = here.messages.findLast((one) => one.role === "twin" && one.seq !== null && one.seq <= Math.max(here.readSeq, this.seenSeq ?? 0));
    let place = this.list.firstElementChild;
    let before = null;
    const put = (node) => {
      if (node === place) place = place.nextElementSibling;
      else this.list.insertBefore(node, place);
    };
    let day = new Date().toDateString();
    const days = new Set();
    for (const { key, about, answers } of items) {
      const message = answers.find((one) => one.id === this.chosen.get(about)) ?? answers.at(-1);
      const item = this.items.get(key) ?? this.newItem(key, message.role);
      const its = dayOf(answers[0].timestamp);
      if (its && its !== day && !days.has(its)) {
        day = its;
        days.add(its);
        put(this.dayLine(its));
      }
      put(item);
      this.fill(item, message, questions.get(about), before === about);
      this.showAlternatives(item, about, answers, message);
      item.toggleAttribute("data-new", answers.some((one) => one.id === this.newFrom));
      item.toggleAttribute("data-seen", answers.includes(seen));
      before = message.id;
    }
    for (const [one, line] of this.days) {
      if (days.has(one)) continue;
      line.remove();
      this.days.delete(one);
    }
    const keys = new Set(items.map((one) => one.key));
    for (const [key, item] of this.items) {
      if (keys.has(key)) continue;
      item.remove();
      this.items.delete(key);
    }
  }

  dayLine(day) {
    const line = this.days.get(day) ?? make("li", "day", make("span"));
    this.days.set(day, line);
    setText(line.firstChild, dayName(day));
    return line;
  }

  newItem(key, role) {
    const item = make("li", "message");
    item.dataset.role = role;
    const foot = make("div", "foot", make("span", "who"), make("time"), make("span", "note"));
    foot.firstChild.setAttribute("aria-hidden", "true"); // the heading has said it
    const [about, text] = [directed(make("p", "about")), make("div", "text")];
    if (role === "user") directed(text); // each block of an answer has its own
    item.append(make("h2", "unseen"), about, text, make("p", "failure"), foot);
    foot.append(...(role === "twin" ? this.answerButtons(item) : this.questionButtons(item)));
    this.items.set(key, item);
    return item;
  }

  answerButtons(item) {
    const rate = (rating, label) => {
      const made = button("rate", label, () => {
        const wanted = item.message.feedback?.rating === rating ? "none" : rating;
        this.rate(item.message, wanted, item);
      }, sign("thumb"));
      made.dataset.rating = rating;
      return made;
    };
    const anew = () => {
      this.chosen.delete(item.message.inResponseTo);
      const { receipt } = this.client.regenerate(item.message.inResponseTo, this.id);
      receipt.catch((error) => this.say(errorText(error), error.code));
    };
    const again = button("again", "Answer again", anew, sign("again"));
    const copy = button("copy", "Copy", () => this.copy(item.message.text), sign("copy"));
    const which = make("span", "which");
    which.append(button("before", "Earlier answer", () => this.choose(item, -1), sign("before")), make("span", "count"));
    which.append(button("next", "Later answer", () => this.choose(item, 1), sign("next")));
    const on = button("go-on", "Go on", () => this.client.send("Go on.", { conversationId: this.id }));
    return [on, which, button("retry", "Try again", anew), rate("up", "Good answer"), rate("down", "Bad answer"), again, copy];
  }

  async copy(text) {
    this.say((await copied(text, this.list)) ? "Copied." : "The browser does not let it be copied: select it, and copy it by hand.");
  }

  // Each block of code can be copied alone.
  codeButtons(text) {
    for (const box of text.querySelectorAll(".code")) {
      if (box.querySelector(".copy-code")) continue;
      box.append(button("copy-code", "Copy the code", () => this.copy(box.querySelector("code").textContent), sign("copy")));
    }
  }

  questionButtons(item) {
    const retry = button("retry", "Try again", () => this.client.retry(item.message.id, this.id));
    return [retry, button("edit", "Edit", () => this.composer.edit(item.message.text), sign("pencil"))];
  }

  choose(item, by) {
    const { inResponseTo: about } = item.message;
    const answers = this.here.messages.filter((one) => one.inResponseTo === about);
    const at = answers.findIndex((one) => one.id === item.message.id) + by;
    if (!answers[at]) return;
    if (at === answers.length - 1) this.chosen.delete(about); // the newest, whichever that will be
    else this.chosen.set(about, answers[at].id);
    this.follow = false;
    this.draw();
  }

  showAlternatives(item, about, answers, message) {
    const which = item.querySelector(".which");
    if (!which) return;
    const at = answers.indexOf(message);
    which.hidden = answers.length < 2;
    setText(which.querySelector(".count"), `${at + 1} of ${answers.length}`);
    // Not `disabled`, which would take the focus away from who steps through them.
    which.querySelector(".before").setAttribute("aria-disabled", String(at === 0));
    which.querySelector(".next").setAttribute("aria-disabled", String(at === answers.length - 1));
  }

  fill(item, message, question, isBelow) {
    const { sessions } = this.client.state;
    const wasStreaming = item.dataset.state === "streaming";
    const about = item.querySelector(".about");
    about.hidden = !question || isBelow;
    if (!about.hidden) setText(about, `On “${shortened(question.text, 60)}”`);
    if (item.message === message && item.question === question && item.sessions === sessions) return;
    Object.assign(item, { message, question, sessions });
    Object.assign(item.dataset, { messageId: message.id, state: message.state });
    if (message.seq !== null) item.dataset.seq = message.seq;
    item.setAttribute("aria-busy", String(message.state === "streaming"));
    const text = item.querySelector(".text");
    if (message.role === "twin") {
      showMarkdown(text, message.text, this.highlight);
      this.codeButtons(text);
    } else setText(text, message.text);
    const hasFailed = message.role === "twin" && message.state === "failed";
    const failure = item.querySelector(".failure");
    failure.hidden = !hasFailed;
    setText(failure, hasFailed ? `Your twin could not answer. ${whyOf(message, question)}` : "");
    for (const one of item.querySelectorAll("h2, .who")) setText(one, message.role === "twin" ? "Your twin" : this.speaker(message));
    showTime(item.querySelector("time"), message.timestamp);
    setText(item.querySelector(".note"), noteOf(message));
    const isFinal = message.role === "twin" && message.state !== "streaming";
    for (const one of item.querySelectorAll(".rate, .again, .copy")) one.hidden = !isFinal || (hasFailed && (!message.text || one.matches(".again")));
    for (const one of item.querySelectorAll(".rate")) {
      one.setAttribute("aria-pressed", String(message.feedback?.rating === one.dataset.rating));
    }
    for (const one of item.querySelectorAll(".go-on")) one.hidden = message.finish !== "length";
    for (const one of item.querySelectorAll(".retry")) one.hidden = message.state !== "refused" && !hasFailed;
    if (wasStreaming && isFinal) setText(this.announcer, `Your twin: ${text.textContent} ${failure.textContent}`);
  }

  speaker({ sessionId }) {
    if (!sessionId || sessionId === this.client.state.sessionId) return "You";
    return `You, ${nameOf(this.client.state, sessionId)}`;
  }

  showRunning(here) {
    const drafts = here.messages.filter((message) => message.state === "streaming");
    const waiting = Object.entries(here.thinking).filter(([about]) => !drafts.some((one) => one.inResponseTo === about));
    this.composer.stoppable(drafts[0]?.inResponseTo ?? waiting[0]?.[0] ?? "");
    const state = waiting.find(([, one]) => one !== "queued")?.[1] ?? "queued";
    this.thinking.hidden = waiting.length === 0 || drafts.length > 0;
    this.thinking.dataset.state = state;
    setText(this.thinkingText, THINKING[state]);
    this.typing.hidden = here.typing.length === 0;
    if (here.typing.length) setText(this.typing, `You are typing on ${nameOf(this.client.state, here.typing[0])} …`);
  }

  // What the user has seen here counts as read on all devices.
  tellRead(here) {
    const last = here.messages.findLast((message) => message.role === "twin" && message.seq !== null);
    const isSeen = document.visibilityState === "visible" && this.client.state.connection === "online" && this.isAtEnd();
    if (!isSeen || !last || this.seenSeq === null || last.seq <= Math.max(this.seenSeq, here.readSeq)) return;
    this.seenSeq = last.seq;
    this.client.read(last.id);
  }

  isAtEnd() {
    return this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < NEAR_END_PX;
  }

  toEnd() {
    this.follow = true;
    this.draw();
  }
}

export function nameOf(state, sessionId) {
  return state.sessions.find((one) => one.session_id === sessionId)?.device?.name ?? "another device";
}

// The value, and whose it is: "football (of Mia, daughter)"; somebody as "Mia (daughter)".
export function valueOf({ value, entity }) {
  const { name = "", relation = "" } = entity ?? {};
  const low = value.toLowerCase();
  if (name && low === name.toLowerCase()) return relation ? `${value} (${relation})` : value;
  const of = [name, relation].filter(Boolean);
  const isTheirs = of.length > 0 && !of.some((part) => low.includes(part.toLowerCase()));
  return isTheirs ? `${value} (of ${of.join(", ")})` : value;
}

export const named = (key) => key.replaceAll("_", " ").replaceAll(".", ", ");

export const shortened = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

// Answers to one message are one item, in the place of the first: the others are alternatives.
function arranged(messages) {
  const items = [];
  const byQuestion = new Map();
  for (const message of messages) {
    const about = message.role === "twin" ? message.inResponseTo : null;
    const known = about && byQuestion.get(about);
    if (known) known.answers.push(message);
    else items.push({ key: about ? `answer-${about}` : message.id, about, answers: [message] });
    if (about && !known) byQuestion.set(about, items.at(-1));
  }
  return items;
}

// Of an answer that failed: as it is stored, or, while that was not heard of, as the error before it said.
function whyOf({ failure }, question) {
  const { error } = question ?? {};
  return failure || error ? errorText({ ...error, code: failure ?? error.code }) : "";
}

function noteOf(message) {
  if (message.state === "refused") return `${NOTES.refused}. ${errorText(message.error)}`;
  if (message.finish) return CUTS[message.finish] ?? "";
  return NOTES[message.state] ?? "";
}

function showTime(node, timestamp) {
  const at = timestamp && new Date(timestamp);
  setText(node, at ? at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "");
  if (at) Object.assign(node, { dateTime: timestamp, title: at.toLocaleString([], { dateStyle: "full", timeStyle: "medium" }) });
}

const dayOf = (timestamp) => timestamp && new Date(timestamp).toDateString();

function dayName(day) {
  const at = new Date(day);
  const back = Math.round((new Date(new Date().toDateString()) - at) / 86_400_000); // a day may have 23 hours
  if (back === 0) return "Today";
  if (back === 1) return "Yesterday";
  const isThisYear = at.getFullYear() === new Date().getFullYear();
  return at.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", ...(isThisYear ? {} : { year: "numeric" }) });
}

function field(name, label) {
  const made = make("input");
  Object.assign(made, { name, placeholder: label, dir: "auto" });
  made.setAttribute("aria-label", label);
  return made;
}
