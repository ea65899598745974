// How an answer is made: what the twin thinks, its steps, and what it asks for before it goes on. While it is made all of
// it is open; of a finished answer it is folded.
import { ApprovalCard } from "./approval.js";
import { directed, make, setText } from "./view.js";

const STATES = { started: "under way", progress: "under way", waiting: "waits for you", done: "done", failed: "failed", unknown: "nobody knows whether it was done" };

export class WorkView {
  // `view` is the conversation's. `before` stands before the answer's text, `after` behind it.
  constructor(view) {
    this.view = view;
    this.cards = new Map(); // id of an approval -> its card
    this.reasoning = folded("reasoning");
    this.thoughts = directed(make("p"));
    this.reasoning.append(this.thoughts);
    this.steps = folded("steps");
    this.list = make("ul");
    this.steps.append(this.list);
    this.before = make("div", "work", this.reasoning, this.steps);
    this.after = make("div", "approvals");
  }

  // `work` is what is known of an answer that is being made: `steps`, `reasoning`, `approvals`; null of a finished one.
  show(message, work) {
    const { steps, reasoning, approvals } = work ?? { steps: message.steps, reasoning: message.reasoning, approvals: NONE };
    const isLive = work !== null;
    this.showReasoning(reasoning, isLive && !message.text);
    this.showSteps(steps, isLive);
    this.showApprovals(approvals);
    this.before.hidden = !reasoning && steps.length === 0;
    this.after.hidden = approvals.length === 0;
  }

  showReasoning(text, isLive) {
    this.reasoning.hidden = !text;
    setText(this.reasoning.firstChild, isLive ? "Thinking …" : "What your twin thought");
    if (text && this.thoughts.textContent !== text) setText(this.thoughts, text);
  }

  showSteps(steps, isLive) {
    if (this.shown === steps && this.wasLive === isLive) return;
    this.steps.hidden = steps.length === 0;
    // Only where it changes: the user may have folded it, or not.
    if (this.wasLive !== isLive) this.steps.open = isLive;
    Object.assign(this, { shown: steps, wasLive: isLive });
    setText(this.steps.firstChild, isLive ? "At work" : `${steps.length} ${steps.length === 1 ? "step" : "steps"}${endOf(steps)}`);
    while (this.list.children.length > steps.length) this.list.lastChild.remove();
    steps.forEach((step, index) => showStep(this.list.children[index] ?? this.list.appendChild(newStep()), step));
  }

  showApprovals(approvals) {
    if (this.asked === approvals) return;
    this.asked = approvals;
    for (const [id, card] of this.cards) {
      if (approvals.some((one) => one.id === id)) continue;
      card.remove();
      this.cards.delete(id);
    }
    for (const approval of approvals) {
      const card = this.cards.get(approval.id) ?? this.newCard(approval);
      card.show(approval);
    }
  }

  newCard(approval) {
    const card = new ApprovalCard(this.view);
    this.cards.set(approval.id, card);
    this.after.append(card.node);
    if (approval.decision === null) this.view.announce(`Your twin asks: ${approval.title}`);
    return card;
  }
}

const NONE = [];

function folded(className) {
  const made = make("details", className);
  made.append(make("summary"));
  return made;
}

function newStep() {
  return make("li", "step", directed(make("span", "title")), make("span", "unseen"), directed(make("span", "summary")));
}

function showStep(node, { step_id: id, title, state, summary }) {
  Object.assign(node.dataset, { stepId: id, state });
  const [name, spoken, text] = node.children;
  setText(name, title);
  const said = summary ?? (state === "failed" || state === "unknown" || state === "waiting" ? STATES[state] : "");
  setText(spoken, said === STATES[state] ? "" : `, ${STATES[state]}`);
  setText(text, said);
}

function endOf(steps) {
  const failed = steps.filter((one) => one.state === "failed" || one.state === "unknown").length;
  return failed > 0 ? `, ${failed} not done` : "";
}
