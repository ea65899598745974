// One item of the conversation: what the user has said, or the answers to it, of which one is looked at.
import { showMarkdown } from "./markdown.js";
import { button, copied, count, directed, errorText, isTouch, make, setText, sign } from "./view.js";
import { named, nameOf, shortened, valueOf } from "./words.js";
import { WorkView } from "./work.js";

const REASONS = { wrong: "Not true", not_me: "Not like me", too_long: "Too long", off_topic: "Beside the point" };
const CUTS = { length: "Cut off: it reached its longest length.", content_filter: "Cut off by the rules of the model’s provider." };
const REASON_MAX = { correction: 8000, comment: 2000 };
const LONG_WAIT_MS = 10_000;
const NOTES = { sending: "Sending …", refused: "Not sent", interrupted: "Cut short", failed: "" };

export class MessageItem {
  // `view` is the conversation's.
  constructor(view, role) {
    this.view = view;
    this.node = make("li", "message");
    this.node.dataset.role = role;
    const foot = make("div", "foot", make("span", "who"), make("time"), make("span", "note"));
    foot.firstChild.setAttribute("aria-hidden", "true"); // the heading has said it
    this.text = make("div", "text");
    if (role === "user") directed(this.text); // each block of an answer has its own
    this.node.append(make("h2", "unseen"), directed(make("p", "about")), this.text, make("p", "failure"), foot);
    foot.append(...(role === "twin" ? this.answerButtons() : this.questionButtons()));
    if (role === "twin") {
      this.work = new WorkView(view);
      this.text.before(this.work.before);
      this.text.after(this.work.after);
    }
  }

  find(name) {
    return this.node.querySelector(name);
  }

  answerButtons() {
    const rate = (rating, label) => {
      const made = button("rate", label, () => this.rate(this.message.feedback?.rating === rating ? "none" : rating), sign("thumb"));
      made.dataset.rating = rating;
      return made;
    };
    const anew = () => {
      this.view.chosen.delete(this.message.inResponseTo);
      const { receipt } = this.view.client.regenerate(this.message.inResponseTo, this.view.id);
      receipt.catch((error) => this.view.say(errorText(error), error.code));
    };
    const again = button("again", "Answer again", anew, sign("again"));
    const copy = button("copy", "Copy", () => this.copy(this.message.text), sign("copy"));
    const which = make("span", "which");
    which.append(button("before", "Earlier answer", () => this.view.choose(this.message, -1), sign("before")), make("span", "count"));
    which.append(button("next", "Later answer", () => this.view.choose(this.message, 1), sign("next")));
    const on = button("go-on", "Go on", () => this.view.client.send("Go on.", { conversationId: this.view.id }));
    return [on, which, button("retry", "Try again", anew), rate("up", "Good answer"), rate("down", "Bad answer"), again, copy];
  }

  questionButtons() {
    const retry = button("retry", "Try again", () => this.view.client.retry(this.message.id, this.view.id));
    return [retry, button("edit", "Edit", () => this.view.composer.edit(this.message.text), sign("pencil"))];
  }

  // -- what the user does ---------------------------------------------------------------------------------------------

  async copy(text) {
    const isCopied = await copied(text, this.view.list);
    this.view.say(isCopied ? "Copied." : "The browser does not let it be copied: select it, and copy it by hand.");
  }

  async rate(rating, reasons) {
    const { receipt } = this.view.client.feedback(this.message.id, rating, reasons);
    this.find(".reasons")?.remove();
    if (rating === "down" && !reasons) this.askWhy();
    try {
      for (const trait of ((await receipt).traits ?? []).slice(0, 3)) {
        this.view.say(`${named(trait.key)}, ${valueOf(trait)}: now ${Math.round(trait.confidence * 100)} % sure`);
      }
    } catch (error) {
      this.view.say(errorText(error), error.code);
    }
  }

  // After a thumb down: what was wrong, and what would have been right, in the user's own words, if they like.
  askWhy() {
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
      if (long) return this.view.say(`That is too long: at most ${REASON_MAX[long[0]].toLocaleString()} characters.`, "too_large");
      this.rate("down", { ...Object.fromEntries(filled), tags: given.getAll("tag") });
      close();
      this.view.focus();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing || event.keyCode === 229) return;
      event.stopPropagation();
      close();
      this.find("[data-rating=down]").focus();
    });
    const tell = make("button", "", "Tell it");
    tell.type = "submit";
    form.append(make("div", "tags", ...tags), correction, comment, make("div", "row", tell, button("quiet", "Skip", close)));
    this.node.append(form);
    if (!isTouch()) correction.focus({ preventScroll: true });
    form.scrollIntoView({ block: "nearest" });
  }

  // -- what is shown --------------------------------------------------------------------------------------------------

  // `question` is what an answer answers, `isBelow` whether it stands right below it; `isTaken` says of what the user
  // has said that the answer to something else took it in.
  show(message, { question, isBelow, isTaken, work }) {
    const about = this.find(".about");
    about.hidden = !question || isBelow;
    if (!about.hidden) setText(about, `On “${shortened(question.text, 60)}”`);
    this.work?.show(message, work);
    const { sessions } = this.view.client.state;
    const [before, now] = [this.drawn, [message, question, sessions, isTaken]];
    if (before && now.every((one, index) => one === before[index])) return;
    this.drawn = now;
    this.message = message;
    const { node } = this;
    const wasStreaming = node.dataset.state === "streaming" || node.dataset.state === "working";
    Object.assign(node.dataset, { messageId: message.id, state: message.state });
    if (message.seq !== null) node.dataset.seq = message.seq;
    node.setAttribute("aria-busy", String(message.state === "streaming"));
    if (message.role === "twin") {
      showMarkdown(this.text, message.text, this.view.highlight, this.view.typeset);
      this.codeButtons();
    } else setText(this.text, message.text);
    const hasFailed = message.role === "twin" && message.state === "failed";
    const failure = this.find(".failure");
    failure.hidden = !hasFailed;
    setText(failure, hasFailed ? `Your twin could not answer. ${whyOf(message, question)}` : "");
    for (const one of node.querySelectorAll("h2, .who")) setText(one, message.role === "twin" ? "Your twin" : this.speaker());
    showTime(this.find("time"), message.timestamp);
    setText(this.find(".note"), isTaken ? "Taken into the answer that was being made" : noteOf(message));
    this.showButtons(hasFailed);
    const isFinal = message.role === "twin" && message.seq !== null;
    if (wasStreaming && isFinal) this.view.announce(`Your twin: ${spoken(this.text)} ${failure.textContent}`);
  }

  showButtons(hasFailed) {
    const { message, node } = this;
    const isFinal = message.role === "twin" && message.state !== "streaming" && message.state !== "working";
    for (const one of node.querySelectorAll(".rate, .again, .copy")) one.hidden = !isFinal || (hasFailed && (!message.text || one.matches(".again")));
    for (const one of node.querySelectorAll(".rate")) {
      one.setAttribute("aria-pressed", String(message.feedback?.rating === one.dataset.rating));
    }
    for (const one of node.querySelectorAll(".go-on")) one.hidden = message.finish !== "length";
    for (const one of node.querySelectorAll(".retry")) one.hidden = message.state !== "refused" && !hasFailed;
  }

  // Each block of code can be copied alone.
  codeButtons() {
    for (const box of this.text.querySelectorAll(".code")) {
      if (box.querySelector(".copy-code")) continue;
      box.append(button("copy-code", "Copy the code", () => this.copy(box.querySelector("code").textContent), sign("copy")));
    }
  }

  showAlternatives(answers) {
    const which = this.find(".which");
    if (!which) return;
    const at = answers.indexOf(this.message);
    which.hidden = answers.length < 2;
    setText(which.querySelector(".count"), `${at + 1} of ${answers.length}`);
    // Not `disabled`, which would take the focus away from who steps through them.
    which.querySelector(".before").setAttribute("aria-disabled", String(at === 0));
    which.querySelector(".next").setAttribute("aria-disabled", String(at === answers.length - 1));
  }

  speaker() {
    const { sessionId } = this.message;
    const { state } = this.view.client;
    return !sessionId || sessionId === state.sessionId ? "You" : `You, ${nameOf(state, sessionId)}`;
  }
}

// Of an answer that failed: as it is stored, or, while that was not heard of, as the error before it said.
function whyOf({ failure }, question) {
  const { error } = question ?? {};
  return failure || error ? errorText({ ...error, code: failure ?? error.code }) : "";
}

function noteOf(message) {
  if (message.state === "refused") return `${NOTES.refused}. ${errorText(message.error)}`;
  if (message.state === "sending") return waitOf(message);
  if (message.state === "stopped") return message.stoppedBy ? "Stopped by your next message" : "Stopped by you";
  if (message.finish) return CUTS[message.finish] ?? "";
  return NOTES[message.state] ?? "";
}

// Why it is not sent yet, where that is more than a moment.
function waitOf({ heldUntil, error }) {
  const at = new Date(heldUntil ?? 0);
  const isLong = at - Date.now() > LONG_WAIT_MS;
  if (!isLong && (!heldUntil || error.code !== "busy")) return NOTES.sending;
  const why = error.code === "rate_limited" ? "No more can be answered for now." : errorText(error);
  const day = at.toDateString() === new Date().toDateString() ? {} : { weekday: "long" };
  return `Waits: ${why}${isLong ? ` Again at ${at.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" })}.` : ""}`;
}

function showTime(node, timestamp) {
  const at = timestamp && new Date(timestamp);
  setText(node, at ? at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "");
  if (at) Object.assign(node, { dateTime: timestamp, title: at.toLocaleString([], { dateStyle: "full", timeStyle: "medium" }) });
}

/** What stands in paragraphs, with a pause between them. */
function spoken(text) {
  return Array.from(text.children, (one) => one.textContent).join(" ");
}

function field(name, label) {
  const made = make("input");
  Object.assign(made, { name, placeholder: label, dir: "auto" });
  made.setAttribute("aria-label", label);
  return made;
}
