// Owns the choice between light, dark and the system's theme.
import { createStore, recall, remember } from "./store.js";

/** "system" | "light" | "dark" */
export const theme = createStore(recall("theme", "system"));

export function setTheme(next) {
  if (next === "system") {
    delete document.documentElement.dataset.theme;
    remember("theme", null);
  } else {
    document.documentElement.dataset.theme = next;
    remember("theme", next);
  }
  theme.set(next);
}

/** Switches to the theme that is not shown now. */
export function toggleTheme() {
  setTheme(isDark() ? "light" : "dark");
}

export function isDark() {
  const chosen = theme.get();
  return chosen === "dark" || (chosen === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}
