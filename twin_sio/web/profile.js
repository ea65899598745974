// What the twin believes of its user, and why; confirmed, rejected and edited here.
import { untilAnswered } from "./twin-client.js";
import { named, valueOf } from "./words.js";
import { button, count, directed, errorText, make, setText } from "./view.js";

const SAID = {
  confirmed: "You said that it is right",
  rejected: "You said that it is wrong",
  edited: "You wrote it",
  up: "You liked an answer that used it",
  down: "You disliked an answer that used it",
  ended: "You said that it is over",
};
const VALUE_MAX = 500;
const EMPTY = "Nothing yet. It learns from what you say of yourself.";
const ACTIONS = { confirm: "Right", reject: "Wrong" };
const STANDING = {
  applied: "used in answers",
  tentative: "not sure yet",
  unused: "too unsure to use",
  rejected: "you said no",
  superseded: "held before",
};

export class ProfileView {
  // `get(path)` fetches JSON in the user's name; `say(text, code)` tells what went wrong.
  constructor(dialog, { get, say }) {
    Object.assign(this, { dialog, get, say, drawn: null });
    this.unsent = new Map(); // the id of a trait -> what the user said of it last, while the server does not have it
    this.list = dialog.querySelector("#traits");
    this.note = dialog.querySelector("#profile-note");
  }

  open(client) {
    if (client !== this.client) this.unsent.clear();
    this.client = client;
    this.show(client.state.profile);
    this.dialog.showModal();
    this.fetch();
  }

  fetch() {
    const { client } = this;
    const failed = (error) => setText(this.note, `The profile could not be fetched. ${errorText(error)}`);
    untilAnswered(client, () => client.profile(), () => this.dialog.open).catch(failed);
  }

  // Drawn anew with every change; what the user has open, is writing or stands on stays as it is.
  show(profile) {
    if (!profile) {
      this.list.replaceChildren();
      setText(this.note, "Loading …");
      if (this.dialog.open) this.fetch(); // it was erased meanwhile
    }
    if (profile === this.drawn || !profile || this.list.querySelector("form.edit")) return;
    this.drawn = profile;
    const { list } = this;
    const opened = new Set([...list.querySelectorAll("details[open]")].map((why) => why.closest("li").dataset.traitId));
    const on = document.activeElement?.closest?.("#traits > li");
    const focus = on && { trait: on.dataset.traitId, action: document.activeElement.dataset.action };
    const holds = ({ status }) => !["rejected", "superseded"].includes(status);
    const order = [...profile.traits].sort((a, b) => holds(b) - holds(a) || b.confidence - a.confidence);
    setText(this.note, order.length > 0 ? "" : EMPTY);
    list.replaceChildren(...order.map((trait) => this.trait(trait, opened.has(trait.trait_id))));
    if (!focus) return;
    const item = list.querySelector(`[data-trait-id="${CSS.escape(focus.trait)}"]`);
    const same = item?.querySelector(`[data-action="${focus.action}"]`);
    (same ?? item?.querySelector("summary") ?? this.dialog.querySelector("#profile-close")).focus();
  }

  trait(trait, isOpen) {
    const { trait_id: id, key, status, confidence } = trait;
    const value = valueOf(trait);
    const item = make("li");
    Object.assign(item.dataset, { traitId: id, status });
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: 1, low: 0.55, high: 0.8, optimum: 1, value: confidence });
    meter.setAttribute("aria-label", `How sure it is of ${named(key)}`);
    const until = status === "superseded" && trait.valid_to ? ` until ${day(trait.valid_to)}` : "";
    const isStated = status === "tentative" && confidence >= 0.8;
    const said = trait.denied ? "you said it is not so" : isStated ? "you said it, not confirmed" : STANDING[status];
    const when = trait.when ? ` (${trait.when})` : "";
    const sure = directed(make("span", "sure", `${Math.round(confidence * 100)} %, ${said ?? status}${until}${when}`));
    const name = make("p", "key", named(key));
    const act = (action, label, run, kind = "quiet") => {
      const made = button(kind, label, run);
      made.dataset.action = action;
      made.setAttribute("aria-label", `${label}: ${named(key)} ${value}`);
      return made;
    };
    const actions = make("div", "row", act("confirm", trait.denied ? "It is so" : "Right", () => this.correct(id, "confirm")));
    if (status !== "rejected" && !trait.denied) actions.append(act("reject", "Wrong", () => this.correct(id, "reject")));
    actions.append(act("edit", "Change", () => {
      item.replaceChildren(name, this.editor(trait));
      item.querySelector("input").select();
    }));
    const unsent = make("span", "unsent", this.textOfUnsent(id));
    unsent.setAttribute("role", "status");
    actions.append(unsent);
    item.append(name, directed(make("p", "value", value)), make("div", "row", meter, sure), this.reasons(id, isOpen), actions);
    return item;
  }

  async correct(id, action, value) {
    const said = { text: value ?? ACTIONS[action] };
    this.unsent.set(id, said);
    const { receipt } = this.client.correct(id, action, value);
    this.showUnsent();
    try {
      await receipt;
    } catch (error) {
      this.say(`It could not be put right. ${errorText(error)}`, error.code);
    }
    if (this.unsent.get(id) === said) this.unsent.delete(id);
    this.showUnsent();
  }

  textOfUnsent(id) {
    const said = this.unsent.get(id);
    if (!said) return "";
    return this.client.state.connection === "online" ? "Sending …" : `“${said.text}” is sent as soon as the connection is back.`;
  }

  showUnsent() {
    for (const item of this.list.children) {
      const line = item.querySelector(".unsent");
      if (line) setText(line, this.textOfUnsent(item.dataset.traitId));
    }
  }

  editor({ trait_id: id, key, value }) {
    const form = make("form", "edit");
    const input = make("input");
    Object.assign(input, { value, required: true, dir: "auto" });
    input.addEventListener("input", () => input.setCustomValidity(count(input.value.trim()) > VALUE_MAX ? `At most ${VALUE_MAX} characters.` : ""));
    input.setAttribute("aria-label", `What holds instead: ${named(key)}`);
    const close = () => {
      form.remove();
      this.drawn = null;
      this.show(this.client.state.profile);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.correct(id, "edit", input.value.trim() || value);
      close();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing || event.keyCode === 229) return;
      event.preventDefault(); // closes the form, not the drawer
      close();
    });
    const save = make("button", "", "Save");
    save.type = "submit";
    form.append(input, save, button("quiet", "Cancel", close));
    return form;
  }

  // Fetched when they are asked for: each piece of evidence with the user's own words and what it weighs.
  reasons(id, isOpen) {
    const list = make("ul");
    const why = make("details", "", make("summary", "", "Why?"), list);
    why.addEventListener("toggle", async () => {
      if (!why.open || list.childElementCount > 0) return;
      try {
        const { evidence } = await this.get(`/v1/profile/${encodeURIComponent(id)}/why`);
        list.replaceChildren(...evidence.map(reason));
      } catch (error) {
        why.open = false;
        this.say(`The reasons could not be fetched. ${errorText(error)}`, error.code);
      }
    });
    why.open = isOpen;
    return why;
  }
}

const day = (at) => new Date(at).toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });

function reason({ side, kind, quote, effective, observed_at: at }) {
  const weight = { supports: `+${effective.toFixed(2)}`, opposes: `−${effective.toFixed(2)}`, set_aside: "not counted" };
  const item = make("li", "", directed(make(quote ? "q" : "span", "quote", quote || (SAID[kind] ?? kind))));
  item.dataset.side = side;
  item.append(make("span", "weight", ` ${weight[side]} · ${kind}, ${day(at)}`));
  return item;
}
