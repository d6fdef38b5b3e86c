// Owns the requests to the host's JSON API: one function for everything, errors as ApiError with the server's sentence;
// and the reading of its event stream.
import { authorization, forgetSession, hasSession } from "./session.js";

const BASE = "/api/v1";

/** An answer that is an error, or no answer at all (status 0). `message` is the sentence to show. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/** Leaves for the login page; it comes back to where the operator is. */
export function goToLogin() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

/**
 * Sends one request and resolves to the parsed answer (null where there is none).
 * @param {string} path below /api/v1, with its query: "/actors?limit=5"
 * @param {{method?: string, body?: any, raw?: BodyInit, headers?: object, signal?: AbortSignal}} options
 *   `body` is sent as JSON; `raw` as it is (give it its content-type in `headers`).
 */
export async function api(path, { method = "GET", body, raw, headers = {}, signal } = {}) {
  const init = { method, headers: { accept: "application/json", ...authorization(), ...headers }, signal };
  if (raw !== undefined) init.body = raw;
  else if (method !== "GET") {
    init.headers["content-type"] = "application/json";
    if (body !== undefined) init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(BASE + path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The host does not answer. Look whether it runs and whether this machine can reach it.", 0);
  }
  if (response.status === 401 && method === "GET") {
    // A session that is over may leave what everybody may read.
    if (hasSession()) {
      forgetSession();
      return api(path, { method, body, raw, headers, signal });
    }
    goToLogin();
  }
  const text = await response.text();
  let answer = null;
  if (text) {
    try {
      answer = JSON.parse(text);
    } catch {
      throw new ApiError(`The host answered with something that is no JSON (status ${response.status}).`,
        response.status);
    }
  }
  if (!response.ok) {
    throw new ApiError(answer?.error || `The host answered with status ${response.status}.`, response.status);
  }
  return answer;
}

/**
 * Reads a stream of server-sent events until it ends; throws an ApiError where it does not begin. Unlike an EventSource it
 * shows the session.
 * @param {(name: string, data: string) => void} heed
 */
export async function listen(path, heed, signal) {
  const response = await fetch(BASE + path, { headers: { accept: "text/event-stream", ...authorization() }, signal });
  if (!response.ok) throw new ApiError(`The host answered with status ${response.status}.`, response.status);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2)).join("\n");
      // What only keeps the connection alive has no name.
      if (field("event")) heed(field("event"), field("data"));
    }
  }
}

export const get = (path, signal) => api(path, { signal });
export const post = (path, body = {}) => api(path, { method: "POST", body });
export const put = (path, body = {}) => api(path, { method: "PUT", body });
export const del = (path) => api(path, { method: "DELETE" });

/** Builds a path with a query; members that are empty, null or undefined are left out. */
export function withQuery(path, query = {}) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) params.set(name, value);
  }
  const text = params.toString();
  return text ? `${path}${path.includes("?") ? "&" : "?"}${text}` : path;
}

/** A path of segments, each encoded: apiPath("hosts", id) is "/hosts/N…". */
export const apiPath = (...segments) => `/${segments.map(encodeURIComponent).join("/")}`;
