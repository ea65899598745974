// What the twin asks before it uses a tool: allow it, change what it is used with, or refuse it with a word of why.
import { draft, draftsOf, keepDraft } from "./drafts.js";
import { button, count, directed, errorText, make, setText } from "./view.js";

const COMMENT_MAX = 2000;
export const APPROVAL_DRAFT = "twin-approval";
const DECIDED = { approve: "Allowed", edit: "Allowed, as you changed it", reject: "Refused", expired: "Nobody decided in time", cancelled: "Called off" };

export class ApprovalCard {
  // `view` is the conversation's.
  constructor(view) {
    this.view = view;
    this.title = directed(make("h3"));
    this.arguments = make("dl");
    this.state = make("p", "decision");
    this.until = make("p", "until");
    const allow = button("allow", "Allow", () => this.decide("approve"));
    this.buttons = make("div", "row", allow, button("change", "Change", () => this.change()), button("refuse", "Refuse", () => this.refuse()));
    this.node = make("section", "approval", this.title, this.arguments, this.until, this.buttons, this.state);
  }

  show(approval) {
    this.approval = approval;
    const { id, title, tool, decision, sending, comment } = approval;
    const isOpen = decision === null && sending === null;
    Object.assign(this.node.dataset, { approvalId: id, state: decision ?? (sending ? "sending" : "pending") });
    this.node.setAttribute("aria-label", `Your twin asks: ${title}`);
    setText(this.title, title || tool);
    this.showArguments(approval.arguments);
    const hadFocus = this.hasFocus;
    if (decision !== null) this.forget();
    if (!isOpen) this.closeForm();
    else if (this.form === undefined) this.takeUp();
    this.buttons.hidden = !isOpen || this.form !== undefined;
    this.arguments.hidden = this.form?.dataset.kind === "change";
    this.until.hidden = !isOpen;
    setText(this.until, `Your twin waits until ${timeOf(approval.expiresAt)}.`);
    this.state.hidden = isOpen;
    setText(this.state, isOpen ? "" : `${DECIDED[decision ?? sending]}${comment ? `: ${comment}` : ""}${decision === null ? ". Sending …" : ""}`);
    if (hadFocus && !isOpen) this.view.focus();
  }

  get hasFocus() {
    return this.node.contains(this.node.getRootNode().activeElement);
  }

  // The answer is whole: that it was decided may never have been shown where all of it came at once.
  remove() {
    const { hasFocus } = this;
    this.forget();
    this.node.remove();
    if (hasFocus) this.view.focus();
  }

  showArguments(given) {
    const text = JSON.stringify(given);
    if (this.drawn === text) return;
    this.drawn = text;
    this.arguments.replaceChildren(
      ...Object.entries(given).flatMap(([name, value]) => [make("dt", "", name.replaceAll("_", " ")), directed(make("dd", "", written(value)))]),
    );
  }

  // -- what the user does ---------------------------------------------------------------------------------------------

  async decide(decision, more) {
    const { receipt } = this.view.client.approve(this.approval.id, decision, more);
    try {
      await receipt;
    } catch (error) {
      this.view.say(errorText(error), error.code);
    }
  }

  refuse(kept) {
    const why = make("input");
    Object.assign(why, { name: "comment", placeholder: "Why not? (if you like)", dir: "auto" });
    why.setAttribute("aria-label", "Why not?");
    why.value = kept?.fields.comment ?? "";
    this.openForm("refuse", "Refuse", [why], kept, () => {
      const comment = why.value.trim();
      if (count(comment) > COMMENT_MAX) return `That is too long: at most ${COMMENT_MAX.toLocaleString()} characters.`;
      this.decide("reject", { comment });
      return null;
    });
  }

  change(kept) {
    const fields = Object.entries(this.approval.arguments).map(([name, value]) => new ArgumentField(name, value, kept?.fields));
    this.openForm("change", "Allow it so", fields.map(({ node }) => node), kept, () => {
      const wrong = fields.find((one) => one.value === undefined);
      if (wrong) return `“${wrong.label}” cannot be read: it is written as JSON.`;
      this.decide("edit", { arguments: Object.fromEntries(fields.map(({ name, value }) => [name, value])) });
      return null;
    });
  }

  // `submit` gives what is wrong, or null. `kept`: it was open before a reload, and takes no focus away.
  openForm(kind, label, fields, kept, submit) {
    const ok = make("button", "", label);
    ok.type = "submit";
    const why = make("p", "wrong");
    why.setAttribute("role", "alert");
    this.form = make("form", "", ...fields, why, make("div", "row", ok, button("quiet", "Back", () => this.back())));
    this.form.dataset.kind = kind;
    this.form.noValidate = true;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      setText(why, submit() ?? "");
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing || event.keyCode === 229) return;
      event.stopPropagation();
      this.back();
    });
    this.form.addEventListener("input", () => this.keep());
    this.buttons.after(this.form);
    this.show(this.approval);
    if (!kept) this.form.querySelector("input, textarea")?.focus();
  }

  // -- what is kept ---------------------------------------------------------------------------------------------------

  // What is typed into the form: over reloads, until it is decided here or elsewhere, or nobody can decide it any more.
  get place() {
    const user = this.view.user ?? this.view.client.state.userId;
    return user === null ? null : `${APPROVAL_DRAFT} ${user} ${this.approval.id}`;
  }

  keep() {
    const inputs = [...this.form.querySelectorAll("input, textarea")];
    const fields = Object.fromEntries(inputs.map((one) => [one.name, one.type === "checkbox" ? one.checked : one.value]));
    const { expiresAt } = this.approval;
    if (this.place !== null) keepDraft(this.place, JSON.stringify({ kind: this.form.dataset.kind, fields, expiresAt }));
  }

  takeUp() {
    const kept = this.place && draft(this.place);
    if (!kept) return;
    const { kind, ...more } = JSON.parse(kept);
    if (kind === "change") this.change(more);
    else this.refuse(more);
  }

  forget() {
    if (this.place !== null) keepDraft(this.place, null);
  }

  back() {
    this.forget();
    this.closeForm();
    this.show(this.approval);
    this.buttons.firstChild.focus();
  }

  closeForm() {
    this.form?.remove();
    this.form = undefined;
  }
}

// A field for one argument, after the kind of its value. What is neither a text, a number nor a yes or no is JSON.
class ArgumentField {
  // `kept`: what is in the fields, by name.
  constructor(name, given, kept = {}) {
    this.name = name;
    this.label = name.replaceAll("_", " ");
    this.kind = given === null || typeof given === "object" ? "json" : typeof given;
    const isLine = this.kind === "number" || this.kind === "boolean";
    this.input = make(isLine ? "input" : "textarea");
    Object.assign(this.input, { name, dir: "auto" });
    if (this.kind === "boolean") Object.assign(this.input, { type: "checkbox", checked: given });
    else this.input.value = this.kind === "json" ? JSON.stringify(given, null, 2) : String(given);
    if (this.kind === "number") this.input.inputMode = "decimal";
    if (Object.hasOwn(kept, name)) this.input[this.kind === "boolean" ? "checked" : "value"] = kept[name];
    if (!isLine) this.input.rows = Math.min(6, this.input.value.split("\n").length);
    this.node = make("label", this.kind, make("span", "", this.label), this.input);
  }

  // Undefined where it cannot be read.
  get value() {
    const { value, checked } = this.input;
    if (this.kind === "boolean") return checked;
    if (this.kind === "string") return value;
    try {
      const read = JSON.parse(value);
      return this.kind === "number" && typeof read !== "number" ? undefined : read;
    } catch {
      return undefined;
    }
  }
}

const written = (value) => (typeof value === "string" ? value : typeof value === "boolean" ? (value ? "yes" : "no") : JSON.stringify(value));

function timeOf(timestamp) {
  const at = new Date(timestamp);
  const isToday = at.toDateString() === new Date().toDateString();
  return at.toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

// Of approvals that ended while nobody looked.
for (const key of draftsOf(APPROVAL_DRAFT)) {
  if (!(Date.parse(JSON.parse(draft(key))?.expiresAt) > Date.now())) keepDraft(key, null);
}
