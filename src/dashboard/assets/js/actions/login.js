// Owns the dialog that logs in, and who has to see it before they change something.
import { html, useState } from "../../vendor/htm-preact.js";
import { live, reconnect } from "../live.js";
import { hasSession, logIn, logOut } from "../session.js";
import { Command } from "../ui/basic.js";
import { Dialog, openDialog } from "../ui/dialog.js";
import { TextField } from "../ui/form.js";

/** Whether the host takes changes from this page. */
export const isLoggedIn = () => live.get().hello?.is_logged_in ?? hasSession();

function LogIn({ close, wish }) {
  const [token, setToken] = useState("");
  const submit = async () => {
    await logIn({ token: token.trim() });
    reconnect();
    return true;
  };
  return html`<${Dialog} title=${wish ? "Log in to change things" : "Log in"} close=${close} onSubmit=${submit}
    submitText="Log in" busyText="Logging in …" isReady=${token.trim() !== ""}>
    <p>Without a login this page only shows things, and hides link values and logs. On the machine of the host, this opens
      it logged in:</p>
    <${Command} text="host dashboard" />
    <${TextField} label="Or enter the token" type="password" mono value=${token} onInput=${setToken} data-autofocus
      autocomplete="current-password" hint="The log of the host says in which file it is, unless it was set with
      dashboard_token." />
  </>`;
}

/** Logs in by a dialog; resolves to whether that was done. */
export const openLogin = (wish = false) => openDialog(LogIn, { wish }).then((done) => done === true);

/** Opens the dialog of a change; whoever is not logged in logs in first. */
export async function openChange(dialog, props) {
  if (!isLoggedIn() && !(await openLogin(true))) return undefined;
  return openDialog(dialog, props);
}

/** Logs out; the page goes on as everybody may see it. */
export async function leave() {
  await logOut();
  reconnect();
}
