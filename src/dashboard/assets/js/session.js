// Owns the session: a signed text that the host gave for a token or the code of a link. It is kept in the storage of this
// origin and shown as bearer. There is no cookie, since a browser sends those to every port of a machine, and so also to
// the pages of its actors.

const NAME = "host.session";
let session = null;

/** The session, or null. */
function current() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    // Without a storage it lasts as long as the page.
    return session;
  }
}

function keep(next) {
  session = next;
  try {
    if (next === null) localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, next);
  } catch { /* As above. */ }
}

export const hasSession = () => current() !== null;

/** Ends the session in this browser. */
export const forgetSession = () => keep(null);

/** The header that shows the session; empty without one. */
export function authorization() {
  const shown = current();
  return shown === null ? {} : { authorization: `Bearer ${shown}` };
}

/** Why nobody was let in: the sentence of the host, and for how many seconds it takes no other token. */
export class LoginError extends Error {
  constructor(message, wait_s) {
    super(message);
    this.wait_s = wait_s;
  }
}

/** Logs in. @param {{token: string}|{code: string}} shown */
export async function logIn(shown) {
  let response;
  try {
    response = await fetch("/api/v1/session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(shown),
    });
  } catch {
    throw new LoginError("The host does not answer. Look whether it runs and whether this machine can reach it.", 0);
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok || !answer?.session) {
    const wait_s = response.status === 429 ? Number(response.headers.get("retry-after")) || 0 : 0;
    throw new LoginError(answer?.error || `The host answered with status ${response.status}.`, wait_s);
  }
  keep(answer.session);
}

/** Logs out: the host takes the session no longer, and this browser forgets it. */
export async function logOut() {
  const headers = authorization();
  forgetSession();
  await fetch("/api/v1/session", { method: "DELETE", headers }).catch(() => {});
}
