// Owns the forms of the call tester: for each way in which a component can be called, its fields and the call they make.
import { html, KeyValueEditor, SelectField, TextArea, TextField } from "../ui/index.js";

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"].map((method) => [method, method]);

/** Text as the binary value of a payload. */
const binary = (text) => ({
  $bin: btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("")),
});

/** A path as a browser sends it: what no URI may have is escaped. */
const escaped = (path) => path.replace(/[^!-~]/gu, encodeURIComponent);

/** Rows of name and value as headers, which may have several values. */
function headersOf(rows) {
  const headers = {};
  for (const [name, value] of rows) {
    const key = name.trim().toLowerCase();
    if (key) headers[key] = [...(headers[key] || []), value];
  }
  return headers;
}

const HTTP = {
  id: "http", text: "HTTP request", operation: "HttpServer.HandleRequest",
  exported: /^wasi:http\/(incoming-)?handler@/,
  fields: { method: "GET", path: "/", headers: [], body: "" },
  problem: ({ path }) => (path.startsWith("/") ? "" : "The path begins with a slash."),
  call({ method, path, headers, body }) {
    const [before, ...query] = escaped(path).split("?");
    return { operation: HTTP.operation, payload: { method, path: before, queryString: query.join("?"),
      header: headersOf(headers), body: binary(body) } };
  },
  render: (fields, set) => html`
    <${SelectField} label="Method" value=${fields.method} options=${METHODS} onInput=${(method) => set({ method })} />
    <${TextField} label="Path" mono value=${fields.path} onInput=${(path) => set({ path })}
      hint="With what follows the question mark, if anything does." />
    <${KeyValueEditor} label="Headers" rows=${fields.headers} keyName="Name" addText="Add a header"
      onInput=${(headers) => set({ headers })} />
    <${TextArea} label="Body" optional mono rows=${5} value=${fields.body} onInput=${(body) => set({ body })} />`,
};

const MESSAGE = {
  id: "message", text: "Message", operation: "MessageSubscriber.HandleMessage",
  exported: /^wasmcloud:messaging\/handler(@|$)/,
  fields: { subject: "test", replyTo: "", body: "" },
  problem: ({ subject }) => (subject.trim() ? "" : "Name the subject."),
  call: ({ subject, replyTo, body }) => ({ operation: MESSAGE.operation,
    payload: { subject: subject.trim(), replyTo: replyTo.trim() || null, body: binary(body) } }),
  render: (fields, set) => html`
    <${TextField} label="Subject" mono value=${fields.subject} onInput=${(subject) => set({ subject })} />
    <${TextField} label="Reply to" optional mono value=${fields.replyTo} onInput=${(replyTo) => set({ replyTo })} />
    <${TextArea} label="Body" optional mono rows=${5} value=${fields.body} onInput=${(body) => set({ body })} />`,
};

const JOB = {
  id: "job", text: "Job", operation: "", exported: /^wasi:cli\/run(@|$)/,
  fields: { operation: "run", input: "" },
  problem: ({ operation }) => (operation.trim() ? "" : "Name the operation."),
  call: ({ operation, input }) => ({ operation: operation.trim(), raw: input }),
  render: (fields, set) => html`
    <${TextField} label="Argument of the job" mono value=${fields.operation}
      onInput=${(operation) => set({ operation })} hint="The operation of the call; the job reads it as its argument." />
    <${TextArea} label="Standard input" optional mono rows=${8} value=${fields.input}
      onInput=${(input) => set({ input })} />`,
};

/** Any operation, with its payload as JSON; the only way to call a module. */
export const ANY = { id: "any", text: "Any operation" };

/** The ways to call an actor, the best first. */
export function formsOf(actor) {
  const exported = actor?.kind === "component" ? actor.exports : [];
  return [...[HTTP, MESSAGE, JOB].filter((form) => exported.some((name) => form.exported.test(name))), ANY];
}

/** The form that is chosen, else the one of an operation, else the first. */
export function formOf(forms, chosen, operation) {
  const wanted = forms.find((form) => form.id === chosen);
  if (wanted) return wanted;
  return operation ? forms.find((form) => form.operation === operation) || ANY : forms[0];
}
