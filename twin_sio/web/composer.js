// The field in which one writes. What is in it is kept per conversation: another conversation, an edit and a reload take
// nothing from it, and what is too long to be sent is said and not cut.
import { draft, keepDraft } from "./drafts.js";
import { button, count, isTouch, make, setText } from "./view.js";

const TYPING_MS = 3000;
const TEXT_MAX = 8000;

export class Composer {
  // `view` is the conversation's: its `id`, `client`, `user`, `here`; it is told of what was `said()`.
  constructor(view) {
    this.view = view;
    this.before = null; // what was written when an earlier message came into the field
    this.build();
  }

  build() {
    this.text = make("textarea");
    Object.assign(this.text, { id: "text", rows: 1, dir: "auto", placeholder: "Message your twin", enterKeyHint: isTouch() ? "enter" : "send" });
    this.text.setAttribute("aria-label", "Message to your twin");
    this.text.setAttribute("aria-describedby", "limit");
    this.stop = button("stop", "Stop", () => this.view.stopAnswer(this.stop.value));
    Object.assign(this.stop, { id: "stop", hidden: true });
    this.send = make("button", "send", "Send");
    Object.assign(this.send, { id: "send", type: "submit" });
    this.editing = make("p", "column editing", "An earlier message, to be sent anew. ", button("quiet", "Cancel", () => this.cancel()));
    this.limit = make("p", "column limit");
    Object.assign(this.limit, { id: "limit", role: "status", hidden: true });
    const now = button("quiet", "Answer this now", () => this.submit("interrupt"));
    now.title = "The answer that is being made ends (Ctrl+Enter)";
    this.also = button("quiet", "Add it to the answer", () => this.submit("steer"));
    this.also.title = "Your twin takes it in at its next step; where there is none, it answers this now";
    this.modes = make("p", "column modes", "Sent, it waits for the answer. ", now, this.also);
    this.form = make("form", "composer", this.editing, this.modes, make("div", "column field", this.text, this.stop, this.send), this.limit);
    this.form.autocomplete = "off";
    this.form.noValidate = true;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.text.addEventListener("input", () => this.written());
    this.text.addEventListener("keydown", (event) => this.key(event));
  }

  // -- what the user does ---------------------------------------------------------------------------------------------

  key(event) {
    // While an input method is at work Enter takes its proposal; Safari says so by the code 229 alone.
    if (event.isComposing || event.keyCode === 229) return;
    const isPlain = !event.shiftKey && !event.altKey;
    if (event.key === "Enter" && isPlain && (!isTouch() || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.submit(event.ctrlKey || event.metaKey ? "interrupt" : "queue");
    } else if (event.key === "Escape" && this.before !== null) {
      event.preventDefault();
      this.cancel();
    } else if (event.key === "ArrowUp" && this.text.value === "") {
      const mine = this.view.here.messages.findLast((message) => message.role === "user");
      if (!mine) return;
      event.preventDefault();
      this.edit(mine.text);
    }
  }

  // `mode` is what it does to an answer that is being made; where none is, it is a message as any other.
  submit(mode = "queue") {
    const text = this.text.value.trim();
    if (!text || this.over() > 0) return;
    this.view.client.send(text, { conversationId: this.view.id, mode: this.stop.value ? mode : "queue" });
    this.stopTyping();
    this.put(this.before ?? "");
    this.text.focus();
    this.view.said();
  }

  // The text of an earlier message comes into the field, to be sent as a new one; what was there comes back after it.
  edit(text) {
    this.before ??= this.text.value;
    this.put(text, this.before);
    this.text.focus();
    this.text.setSelectionRange(text.length, text.length);
  }

  cancel() {
    this.put(this.before ?? "");
    this.text.focus();
  }

  put(text, before = null) {
    this.text.value = text;
    this.before = before;
    this.keep();
    this.sendable();
  }

  written() {
    this.keep();
    this.sendable();
    if (!this.text.value) return this.stopTyping();
    clearTimeout(this.typingTimer);
    this.typingTimer = setTimeout(() => this.stopTyping(), TYPING_MS + 1000);
    if (Date.now() - (this.typedAt ?? 0) < TYPING_MS) return;
    this.typedAt = Date.now();
    this.view.client.typing(true, this.view.id);
  }

  stopTyping() {
    clearTimeout(this.typingTimer);
    if (this.typedAt) this.view.client.typing(false, this.view.id);
    this.typedAt = null;
  }

  // Where a keyboard would come up and cover half of the screen, only a tap on the field brings it.
  focus() {
    if (!isTouch()) this.text.focus();
  }

  close() {
    clearTimeout(this.typingTimer);
  }

  // -- what is kept ---------------------------------------------------------------------------------------------------

  // Whose draft of which conversation; null while nobody knows who is here.
  get place() {
    const user = this.view.user ?? this.view.client.state.userId;
    return user === null ? null : `twin-draft ${user} ${this.view.id}`;
  }

  // The conversation is another one.
  open() {
    Object.assign(this, { taken: null, before: null });
    this.text.value = "";
    this.take();
    this.sendable();
  }

  // What was written here before, as soon as it is known for whom.
  take() {
    const { place } = this;
    if (place === null || this.taken === place) return;
    this.taken = place;
    const [text, before] = JSON.parse(draft(place) ?? '["",null]');
    if (this.text.value || (!text && before === null)) return this.keep();
    this.text.value = text;
    this.before = before;
    this.sendable();
  }

  keep() {
    const { place, before } = this;
    if (place === null) return;
    const { value } = this.text;
    keepDraft(place, value || before ? JSON.stringify([value, before]) : null);
  }

  // -- what is shown --------------------------------------------------------------------------------------------------

  get most() {
    return this.view.client.state.limits?.text_characters ?? TEXT_MAX;
  }

  // By how many characters it is too long.
  over() {
    return count(this.text.value.trim()) - this.most;
  }

  sendable() {
    const over = this.over();
    this.send.disabled = over > 0 || this.text.value.trim() === "";
    this.send.hidden = this.send.disabled && !this.stop.hidden; // on a phone there is room for one of them
    this.editing.hidden = this.before === null;
    this.modes.hidden = this.send.disabled || this.stop.hidden;
    this.limit.hidden = over <= 0;
    if (over > 0) setText(this.limit, `That is ${over.toLocaleString()} ${over === 1 ? "character" : "characters"} too long: at most ${this.most.toLocaleString()} are sent at once.`);
  }

  // An answer to this message is being made, none where it is empty; or it waits for the user, and takes nothing in.
  answering(messageId, isWaiting) {
    this.stop.value = messageId;
    this.also.hidden = isWaiting;
    this.stop.hidden = messageId === "";
    this.take();
    this.sendable();
  }
}
