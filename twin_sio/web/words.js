// How things are named for people.

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
