// One conversation, as the chat page and the widget show it: its messages, and the field in which one writes.
// It shows the client's state and keeps none of its own but what is only here: a choice among answers, an open form.
import { conversation, untilAnswered } from "./twin-client.js";
import { Composer } from "./composer.js";
import { MessageItem } from "./message.js";
import { button, make, setText, sign, toast, typesetter, errorText } from "./view.js";
import { nameOf } from "./words.js";

const NEAR_END_PX = 80;
const PAGES_BACK = 250; // of 200 messages: as far back as a search finds anything
const THINKING = { queued: "Your twin will answer", recalling: "Your twin is remembering", thinking: "Your twin is thinking", waiting: "Your twin waits for you" };

const EMPTY = "Say something to your twin. What you write here shows on all your devices.";

export class ConversationView {
  // `root` is emptied and filled; `highlight` as showMarkdown wants it; `math` loads what typesets formulas; `user` is who is
  // here, where that is known before the session is.
  constructor(root, client, { conversationId = "main", highlight, math, user = null } = {}) {
    this.client = client;
    this.user = user;
    this.highlight = highlight;
    this.typeset = math && typesetter(math);
    this.items = new Map(); // key of an item -> the item
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
    Object.assign(this, { id, asked: false, failure: null, newFrom: null, seenSeq: null, unread: null, follow: true });
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
    this.empty = make("p", "empty");
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
        await untilAnswered(this.client, () => this.client.history({ conversationId: id, before: first?.id, limit: 200 }), () => id === this.id);
        if (id !== this.id) return;
      }
    } catch (error) {
      return this.say(errorText(error), error.code);
    }
    const message = this.here.messages.find((one) => one.id === messageId);
    if (!message) return this.say("It is not there any more.");
    const about = message.role === "twin" ? message.inResponseTo : null;
    if (about) this.chosen.set(about, messageId);
    this.follow = false;
    this.drawNow();
    const item = this.items.get(about ? `answer-${about}` : messageId).node;
    item.tabIndex = -1;
    item.scrollIntoView({ block: "center" });
    item.focus({ preventScroll: true });
  }

  // `by` one forward or back from this answer.
  choose(message, by) {
    const { inResponseTo: about } = message;
    const { answers } = arranged(this.here).find((one) => one.about === about);
    const at = answers.findIndex((one) => one.id === message.id) + by;
    if (!answers[at]) return;
    if (at === answers.length - 1) this.chosen.delete(about); // the newest, whichever that will be
    else this.chosen.set(about, answers[at].id);
    this.follow = false;
    this.draw();
  }

  // To who cannot see it.
  announce(text) {
    setText(this.announcer, text);
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
    const items = arranged(here);
    const hadEarlier = this.items.size > 0 && items.length > 0 && !this.items.has(items[0].key);
    const follow = this.follow;
    this.marks(here);
    this.showItems(items, here);
    this.showRunning(here);
    this.earlier.hidden = !here.hasMore;
    this.empty.hidden = !this.failure && (here.messages.length > 0 || here.hasMore === null);
    setText(this.empty, this.failure ?? EMPTY);
    if (follow) this.scroll.scrollTop = this.scroll.scrollHeight;
    else if (hadEarlier) this.scroll.scrollTop += this.scroll.scrollHeight - height; // what was read stays where it was
    this.down.hidden = this.isAtEnd();
    this.tellRead(here);
    if (here.hasMore === null) this.announce(""); // what is not there any more is not read out, either
  }

  // Asked for once the line is there, until it is answered; what is refused for good is said.
  load(here) {
    if (this.asked || this.client.state.connection !== "online" || (here.hasMore !== null && this.unread !== null)) return;
    this.asked = true;
    const { id, client } = this;
    const until = (ask) => untilAnswered(client, ask, () => id === this.id);
    // What is not among the newest has nothing new: of the others it holds what was known.
    const unread = until(() => client.conversations({ newest: true })).then((list) => list?.find((line) => line.conversation_id === id)?.unread ?? 0);
    Promise.all([unread, here.hasMore === null && until(() => client.history({ conversationId: id }))]).then(
      ([count]) => id === this.id && Object.assign(this, { unread: count, asked: false }),
      (error) => {
        if (id !== this.id) return;
        if (client.state.connection === "online") this.failure = errorText(error);
        else this.asked = false; // the session is over: another may be asked
      },
    ).then(() => this.draw());
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
    const taken = new Set(here.messages.flatMap((message) => message.steeredBy));
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
      const item = this.items.get(key) ?? new MessageItem(this, message.role);
      this.items.set(key, item);
      const its = dayOf(answers[0].timestamp);
      if (its && its !== day && !days.has(its)) {
        day = its;
        days.add(its);
        put(this.dayLine(its));
      }
      put(item.node);
      const work = isMade(message) ? workOn(here, about) : null;
      item.show(message, { question: questions.get(about), isBelow: before === about, isTaken: taken.has(message.id), work });
      item.showAlternatives(answers);
      item.node.toggleAttribute("data-new", answers.some((one) => one.id === this.newFrom));
      item.node.toggleAttribute("data-seen", answers.includes(seen));
      item.node.toggleAttribute("data-waiting", work !== null && isWaiting(work));
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
      item.node.remove();
      this.items.delete(key);
    }
  }

  dayLine(day) {
    const line = this.days.get(day) ?? make("li", "day", make("span"));
    this.days.set(day, line);
    setText(line.firstChild, dayName(day));
    return line;
  }

  showRunning(here) {
    const made = arranged(here).flatMap(({ answers }) => answers.filter(isMade));
    const thought = Object.entries(here.thinking).filter(([about]) => !made.some((one) => one.inResponseTo === about));
    const isAsking = made.some((one) => isWaiting(workOn(here, one.inResponseTo)));
    this.composer.answering(made[0]?.inResponseTo ?? thought[0]?.[0] ?? "", isAsking);
    const state = isAsking ? "waiting" : (thought.find(([, one]) => one !== "queued")?.[1] ?? "queued");
    this.thinking.hidden = !isAsking && (thought.length === 0 || made.length > 0);
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

// Answers to one message are one item, in the place of the first: the others are alternatives. One of which only is known
// how it is made is among them, too.
function arranged(here) {
  const items = [];
  const byQuestion = new Map();
  const add = (message, about) => {
    const known = about && byQuestion.get(about);
    if (known) known.answers.push(message);
    else items.push({ key: about ? `answer-${about}` : message.id, about, answers: [message] });
    if (about && !known) byQuestion.set(about, items.at(-1));
  };
  const drafts = new Set(here.messages.filter((one) => one.state === "streaming").map((one) => one.inResponseTo));
  const sent = here.messages.findLastIndex((one) => one.seq !== null || one.state === "streaming") + 1;
  for (const message of here.messages.slice(0, sent)) add(message, message.role === "twin" ? message.inResponseTo : null);
  const begun = [...here.approvals.map((one) => one.inResponseTo), ...Object.keys(here.activity), ...Object.keys(here.reasoning)];
  for (const about of new Set(begun)) if (!drafts.has(about)) add(beginning(about), about);
  for (const message of here.messages.slice(sent)) add(message, null);
  return items;
}

const beginnings = new Map(); // one object for each, so that what has not changed is not drawn again

// An answer of which there is no text yet.
function beginning(about) {
  const made = beginnings.get(about) ?? { id: `working-${about}`, role: "twin", text: "", state: "working", seq: null, timestamp: null, inResponseTo: about, sessionId: null, steeredBy: [], steps: [], reasoning: null };
  beginnings.set(about, made);
  return made;
}

const isMade = ({ state }) => state === "streaming" || state === "working";

function workOn(here, about) {
  const approvals = here.approvals.filter((one) => one.inResponseTo === about);
  return { steps: here.activity[about] ?? NONE, reasoning: here.reasoning[about]?.text ?? null, approvals };
}

const NONE = [];

const isWaiting = ({ approvals }) => approvals.some((one) => one.decision === null && one.sending === null);

const dayOf = (timestamp) => timestamp && new Date(timestamp).toDateString();

function dayName(day) {
  const at = new Date(day);
  const back = Math.round((new Date(new Date().toDateString()) - at) / 86_400_000); // a day may have 23 hours
  if (back === 0) return "Today";
  if (back === 1) return "Yesterday";
  const isThisYear = at.getFullYear() === new Date().getFullYear();
  return at.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", ...(isThisYear ? {} : { year: "numeric" }) });
}
