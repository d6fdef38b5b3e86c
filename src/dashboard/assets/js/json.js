// Owns where a text stops to be JSON: browsers tell that differently, or not at all.

// A mark, a text, a number, or a word.
const PARTS = [
  /([{}[\],:])/,
  /("(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")/,
  /(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])/,
  /(true|false|null)(?!\w)/,
];
const TOKEN = new RegExp(`\\s*(?:${PARTS.map((part) => part.source).join("|")})`, "y");

/** Offset and reason of the first error, or null. */
function find(text) {
  const stack = [];
  let wants = "value";
  let at = 0;
  const ended = () => {
    wants = stack.length ? "more" : "end";
  };
  while (true) {
    const start = at + text.slice(at).match(/^\s*/)[0].length;
    if (start >= text.length) {
      if (wants === "end") return null;
      return [start, stack.length ? `“${stack.at(-1) === "{" ? "}" : "]"}” is missing at the end`
        : "a value is missing"];
    }
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (!match) {
      return [start, text[start] === "\"" ? "this text is not closed, or has a line break or a wrong “\\” in it"
        : text[start] === "'" ? "texts stand in double quotes" : "this is no value of JSON"];
    }
    at = TOKEN.lastIndex;
    const [, mark, string] = match;
    const top = stack.at(-1);
    if (wants === "end") return [start, "nothing may follow the value"];
    if (wants === "more") {
      if (mark === ",") wants = top === "{" ? "key" : "value";
      else if (mark === (top === "{" ? "}" : "]")) {
        stack.pop();
        ended();
      } else return [start, `“,” or “${top === "{" ? "}" : "]"}” is missing before this`];
    } else if (wants === "colon") {
      if (mark !== ":") return [start, "“:” is missing after the name"];
      wants = "value";
    } else if (wants === "key" || wants === "first key") {
      if (string) wants = "colon";
      else if (mark === "}" && wants === "first key") {
        stack.pop();
        ended();
      } else return [start, mark === "}" ? "“,” must not stand before “}”" : "a name in double quotes is missing here"];
    } else if (mark === "{") {
      stack.push("{");
      wants = "first key";
    } else if (mark === "[") {
      stack.push("[");
      wants = "first value";
    } else if (mark === "]" && wants === "first value") {
      stack.pop();
      ended();
    } else if (mark) return [start, mark === "]" ? "“,” must not stand before “]”" : "a value is missing before this"];
    else ended();
  }
}

/** What is wrong with a text as JSON: {line, column, why}, or null. */
export function jsonError(text) {
  try {
    JSON.parse(text);
    return null;
  } catch {
    const [at, why] = find(text) || [0, "this is no JSON"];
    const before = text.slice(0, at).split("\n");
    return { at, line: before.length, column: before.at(-1).length + 1, why };
  }
}
