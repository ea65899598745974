// Small things that every view is made of.

export function make(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

export function button(className, label, run, content = label) {
  const made = make("button", className, content);
  made.type = "button";
  if (content !== label) {
    made.setAttribute("aria-label", label);
    made.title = label;
  }
  made.addEventListener("click", run);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Whether one writes by tapping on the glass, with a keyboard that has no Shift+Enter and covers half of it.
export const isTouch = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

// Laid out by its first letter, from the left or from the right.
export const directed = (node) => Object.assign(node, { dir: "auto" });

// Characters as the service counts them: an emoji is one.
export const count = (text) => text.length - (text.match(/[\ud800-\udbff][\udc00-\udfff]/g)?.length ?? 0);

// Whether the text is in the clipboard now. Over plain HTTP there is no API for it, but what every browser had before.
export async function copied(text, near) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const [field, focus] = [make("textarea", "unseen"), near.getRootNode().activeElement];
    field.value = text;
    near.after(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    focus?.focus({ preventScroll: true });
    return isCopied;
  }
}

const SIGNS = {
  thumb: "M3 10h3v10H3z M9 20h8.5l3-7v-3H14l.8-5-1.6-1.5L9 10z",
  again: "M20 11a8 8 0 1 0-2.3 6.3 M20 4v7h-7",
  pencil: "M4 20l1-4L16 5l3 3L8 19z M14 7l3 3",
  before: "M14 6l-6 6 6 6",
  next: "M10 6l6 6-6 6",
  copy: "M9 9h11v11H9z M5 15H4V4h11v1",
};

// Drawn, because not every machine has a font with the sign.
export function sign(name) {
  const space = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("aria-hidden", "true");
  made.classList.add("sign");
  path.setAttribute("d", SIGNS[name]);
  made.append(path);
  return made;
}

// What typesets formulas, from a module that `load` fetches at the first one; where that fails, the next one tries again.
export function typesetter(load) {
  let module;
  let loading;
  return (source, display) => {
    if (module) return module.typeset(source, display);
    loading ??= load().catch(() => (loading = undefined));
    return loading.then((it) => (module = it)?.typeset(source, display) ?? null);
  };
}

// What happened, for a moment, in a corner: of an open dialog where there is one, as it covers everything else.
export function toast(into, text, code) {
  const made = make("p", "toast", text);
  if (code) made.dataset.code = code;
  (into.getRootNode().querySelector("dialog[open] .toasts") ?? into).append(made);
  setTimeout(() => made.remove(), 6000);
}

const ERRORS = {
  rate_limited: "That was too fast.",
  busy: "Your twin has several messages to answer.",
  overloaded: "The service is very busy.",
  storage_unavailable: "It could not be stored.",
  model_unavailable: "Your twin cannot think right now. Your message is safe.",
  model_timeout: "Your twin took too long. Your message is safe.",
  model_rate_limited: "Your twin is asked too much right now. Your message is safe: try again in a while.",
  model_refused: "Your twin’s model does not take this. Your message is safe.",
  model_key_refused: "Your twin has no access to its model. Whoever runs this service has to look at it.",
  model_not_found: "Your twin’s model is not there. Whoever runs this service has to look at it.",
  model_quota_gone: "Your twin has used up what it may. Whoever runs this service has to look at it.",
  model_context_too_long: "This is too long for your twin: put it more briefly.",
  model_filtered: "The provider of your twin’s model does not let this through: put it in other words.",
  model_no_answer: "Your twin thought for so long that nothing was left for an answer. Ask for a shorter one.",
  too_large: "That is too long.",
  forbidden: "Your token does not allow this.",
  auth_expired: "Your sign-in has expired: sign in again.",
  token_failed: "Your sign-in could not be renewed.",
  unreachable: "The service does not answer, or does not allow this page.",
  auth_invalid: "This token is not accepted.",
  auth_missing: "A token is needed.",
  auth_forbidden: "This token may not chat.",
  auth_user_mismatch: "This token belongs to somebody else.",
  session_invalid: "The session’s id is not accepted.",
  too_many_sessions: "Too many of your devices are here already.",
  already_decided: "This was decided before.",
  not_found: "It is not there any more.",
  unavailable: "The service is not available right now.",
};

export const errorText = (error) => ERRORS[error?.code] ?? error?.message ?? "That did not work.";
