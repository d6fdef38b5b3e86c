// Owns the login page: takes the code of a link, or a token, and returns to where the operator came from.
import { logIn } from "./session.js";

const form = document.getElementById("login");
const button = document.getElementById("login-button");
const input = document.getElementById("token");
const message = document.getElementById("login-error");

/** Only a path of this page: a single "/" and no backslash, which browsers read as one. */
function next() {
  const path = new URLSearchParams(location.search).get("next") || "/";
  return /^\/(?![/\\])/.test(path) && new URL(path, location.origin).origin === location.origin ? path : "/";
}

function fail(text) {
  message.textContent = text;
  input.setAttribute("aria-invalid", "true");
  input.select();
}

/** Rests for some seconds, as the host takes no token before. */
function rest(seconds) {
  const label = button.textContent;
  const end = Date.now() + seconds * 1000;
  button.disabled = true;
  const timer = setInterval(() => {
    const left = Math.ceil((end - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Log in (in ${left} s)` : label;
    if (left <= 0) clearInterval(timer);
  }, 250);
}

async function enter(shown) {
  let wait = 0;
  button.disabled = true;
  message.textContent = "";
  input.removeAttribute("aria-invalid");
  try {
    await logIn(shown);
    location.replace(next());
    return;
  } catch (error) {
    wait = error.wait_s;
    fail(wait > 0 ? `${error.message.replace(/[^.]$/, "$&.")} Try again in ${wait} s.` : error.message);
  } finally {
    button.disabled = false;
    if (wait > 0) rest(wait);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  enter({ token: input.value.trim() });
});

/** The code of a link stands behind the "#", which no server is sent; it is taken out of the history at once. */
function useCode() {
  const code = location.hash.slice(1);
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search);
  enter({ code });
}

// A link may be opened in a tab that shows this page already.
addEventListener("hashchange", useCode);
useCode();
