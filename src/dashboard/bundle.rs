//! Makes one script of the page's modules, so that a browser asks once instead of sixty times.
//!
//! The modules stay as people write them: the host itself puts them together when somebody first
//! asks, each as a function that returns its exports, after those that it imports. The result
//! depends on the files only.
//!
//! Of the language of modules it knows what the page uses, always at the beginning of a line:
//! `import { a, b as c } from "…";`, `import "…";`, `export { a, b as c } from "…";`,
//! `export { a, b as c };`, `export * from "…";`, and `export` before a declaration. Circles are
//! refused, since a module would see names before they are there.

use std::{collections::HashMap, fmt::Write as _};

/// Why modules do not become one script.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no module {0:?}")]
    Missing(String),
    #[error("modules import each other in a circle: {0}")]
    Circle(String),
    #[error("{path}: this is no import or export that the bundle knows: {statement}")]
    Unknown { path: String, statement: String },
}

/// Returns the module at `entry` with all that it needs, as one module that imports nothing.
/// `files` are paths and their texts.
pub fn script(files: &[(&str, &str)], entry: &str) -> Result<String, Error> {
    let mut bundle = Bundle { files: files.iter().copied().collect(), ..Bundle::default() };
    bundle.add(entry)?;
    Ok(bundle.text)
}

#[derive(Default)]
struct Bundle<'f> {
    files: HashMap<&'f str, &'f str>,
    /// The number of each module that is in the text.
    numbers: HashMap<String, usize>,
    /// The modules whose imports are being added.
    open: Vec<String>,
    text: String,
}

impl Bundle<'_> {
    /// Adds a module after those that it imports; returns its number.
    fn add(&mut self, path: &str) -> Result<usize, Error> {
        if let Some(number) = self.numbers.get(path) {
            return Ok(*number);
        }
        if let Some(at) = self.open.iter().position(|other| other == path) {
            let circle = [&self.open[at..], &[path.to_owned()]].concat();
            return Err(Error::Circle(circle.join(" > ")));
        }
        let text = *self.files.get(path).ok_or_else(|| Error::Missing(path.to_owned()))?;
        self.open.push(path.to_owned());
        let module = self.module(path, text)?;
        self.open.pop();
        let number = self.numbers.len();
        self.numbers.insert(path.to_owned(), number);
        let Module { head, body, exports } = module;
        let _ = writeln!(
            self.text,
            "// {path}\nconst module${number} = (() => {{\n{head}{body}return {{ {} }};\n}})();",
            exports.join(", ")
        );
        Ok(number)
    }

    fn module(&mut self, path: &str, text: &str) -> Result<Module, Error> {
        let mut module = Module::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let is_comment = line.trim_start().starts_with("//");
            if is_comment {
                continue;
            }
            if line.trim_start().starts_with("/** ") || line.trim() == "/**" {
                let mut last = line;
                while !last.trim_end().ends_with("*/") {
                    last = lines.next().unwrap_or("*/");
                }
                continue;
            }
            if let Some(declaration) = line.strip_prefix("export ").filter(|rest| declares(rest)) {
                module.exports.push(declared(declaration).to_owned());
                module.body.push_str(declaration);
                module.body.push('\n');
            } else if line.starts_with("import ") || line.starts_with("export ") {
                let mut statement = line.to_owned();
                while !statement.trim_end().ends_with(';') {
                    let Some(next) = lines.next() else { break };
                    statement.push(' ');
                    statement.push_str(next.trim());
                }
                self.statement(path, &statement, &mut module)?;
            } else {
                module.body.push_str(line);
                module.body.push('\n');
            }
        }
        Ok(module)
    }

    /// Takes an import, or the export of a list.
    fn statement(&mut self, path: &str, text: &str, module: &mut Module) -> Result<(), Error> {
        let unknown = || Error::Unknown { path: path.to_owned(), statement: text.to_owned() };
        let (word, rest) = text.split_once(' ').ok_or_else(unknown)?;
        let rest = rest.trim().trim_end_matches(';');
        let (list, from) = match rest.rsplit_once("from ") {
            Some((list, from)) => (list.trim(), Some(from)),
            None if rest.starts_with('"') => ("", Some(rest)),
            None => (rest, None),
        };
        let source = match from {
            Some(from) => {
                let name = from.trim().strip_prefix('"').and_then(|name| name.strip_suffix('"'));
                Some(self.add(&resolved(path, name.ok_or_else(unknown)?))?)
            }
            None => None,
        };
        let names = list.strip_prefix('{').and_then(|list| list.strip_suffix('}'));
        match (word, names, source) {
            ("import", None, Some(_)) if list.is_empty() => {}
            ("import", Some(names), Some(source)) => {
                let names: Vec<_> = pairs(names).map(|(a, b)| member(a, b)).collect();
                let _ =
                    writeln!(module.head, "const {{ {} }} = module${source};", names.join(", "));
            }
            ("export", None, Some(source)) if list == "*" => {
                module.exports.push(format!("...module${source}"));
            }
            ("export", Some(names), Some(source)) => module
                .exports
                .extend(pairs(names).map(|(a, b)| format!("{b}: module${source}.{a}"))),
            ("export", Some(names), None) => {
                module.exports.extend(pairs(names).map(|(a, b)| member(b, a)));
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// A module in parts: what it imports, its own text, and the members that it exports.
#[derive(Default)]
struct Module {
    head: String,
    body: String,
    exports: Vec<String>,
}

fn declares(text: &str) -> bool {
    ["const ", "function ", "async function ", "class "].iter().any(|word| text.starts_with(word))
}

/// The name that a declaration gives.
fn declared(text: &str) -> &str {
    let text = ["async ", "const ", "function ", "class "]
        .iter()
        .fold(text, |text, word| text.strip_prefix(word).unwrap_or(text));
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$');
    &text[..end.unwrap_or(text.len())]
}

/// The names of a list: `a, b as c` is (a, a), (b, c).
fn pairs(list: &str) -> impl Iterator<Item = (&str, &str)> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| name.split_once(" as ").unwrap_or((name, name)))
}

/// A member of an object, or of the pattern that takes it apart.
fn member(name: &str, value: &str) -> String {
    if name == value { name.to_owned() } else { format!("{name}: {value}") }
}

/// The path that a module names as it sees it.
fn resolved(from: &str, name: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_and_exports_become_members_of_functions() {
        let files = [
            (
                "js/main.js",
                "// Starts.\nimport { a, b as c } from \"./x/y.js\";\nimport \"./z.js\";\na(c);",
            ),
            (
                "js/x/y.js",
                "export * from \"../z.js\";\nexport { d as b } from \"../z.js\";\n/** Calls. */\n\
                 export const a = (n) => n;\nexport async function e() {}\nconst f = 1;\nexport { f as g };",
            ),
            ("js/z.js", "export function d(\n  first,\n) {}"),
        ];
        let expected = "// js/z.js
const module$0 = (() => {
function d(
  first,
) {}
return { d };
})();
// js/x/y.js
const module$1 = (() => {
const a = (n) => n;
async function e() {}
const f = 1;
return { ...module$0, b: module$0.d, a, e, g: f };
})();
// js/main.js
const module$2 = (() => {
const { a, b: c } = module$1;
a(c);
return {  };
})();
";
        assert_eq!(script(&files, "js/main.js").unwrap(), expected);
    }

    #[test]
    fn a_statement_may_have_many_lines() {
        let files =
            [("a.js", "import {\n  x,\n  y,\n} from \"./b.js\";"), ("b.js", "export const x = 1;")];
        assert!(script(&files, "a.js").unwrap().contains("const { x, y } = module$0;"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (files, expected) in [
            (vec![("a", "import \"./b\";")], Error::Missing("b".into())),
            (
                vec![("a", "import \"./b\";"), ("b", "import \"./a\";")],
                Error::Circle("a > b > a".into()),
            ),
            (
                vec![("a", "export default 1;")],
                Error::Unknown { path: "a".into(), statement: "export default 1;".into() },
            ),
            (
                vec![("a", "import x from \"./b\";"), ("b", "")],
                Error::Unknown { path: "a".into(), statement: "import x from \"./b\";".into() },
            ),
        ] {
            assert_eq!(script(&files, "a"), Err(expected));
        }
    }
}
