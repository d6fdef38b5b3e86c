// Owns the sign-in page: sends the token once and returns to where the operator came from.

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
    button.textContent = left > 0 ? `Sign in (in ${left} s)` : label;
    if (left <= 0) clearInterval(timer);
  }, 250);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  let wait = 0;
  button.disabled = true;
  message.textContent = "";
  input.removeAttribute("aria-invalid");
  try {
    const response = await fetch("/api/v1/session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token: input.value.trim() }),
      credentials: "same-origin",
    });
    if (response.ok) {
      location.replace(next());
      return;
    }
    const answer = await response.json().catch(() => null);
    wait = response.status === 429 ? Number(response.headers.get("retry-after")) : 0;
    const text = answer?.error || `The host answered with status ${response.status}.`;
    fail(wait > 0 ? `${text.replace(/[^.]$/, "$&.")} Try again in ${wait} s.` : text);
  } catch {
    fail("The host does not answer. Look whether it runs and whether this machine can reach it.");
  } finally {
    button.disabled = false;
    if (wait > 0) rest(wait);
  }
});
