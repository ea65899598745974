// What is written and not sent yet: kept in this tab, over reloads, and in memory where there is no storage.
const memory = new Map();

export function draft(key) {
  try {
    return sessionStorage.getItem(key) ?? null;
  } catch {
    return memory.get(key) ?? null;
  }
}

// Null is none.
export function keepDraft(key, value) {
  try {
    if (value === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, value);
  } catch {
    memory.set(key, value);
  }
}

export function draftsOf(prefix) {
  try {
    return Object.keys(sessionStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return [...memory.keys()].filter((key) => key.startsWith(prefix));
  }
}
