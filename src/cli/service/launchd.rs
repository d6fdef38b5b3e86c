//! A property list of launchd.

use super::{DESCRIPTION, Definition, LABEL, MARK, TextError};

/// The time that a stop takes beside the host's own.
const STOP_MARGIN_SECONDS: u64 = 15;
/// The umask of the host, as a decimal number: nobody else reads its files.
const UMASK: u32 = 0o077;

/// Returns the text of a property list.
pub fn property_list(definition: &Definition) -> Result<String, TextError> {
    if definition.drains {
        return Err(TextError::NotThere(
            "--drain: launchd has one signal for every stop; send SIGUSR2 to the host to drain it",
        ));
    }
    if definition.secret.is_some() {
        return Err(TextError::NotThere(
            "--env: the value of one of the variables may be a secret, which every user of this machine could read in a property \
             list; give settings as files, and leave the variable away",
        ));
    }
    let mut lines = vec![
        r#"<?xml version="1.0" encoding="UTF-8"?>"#.to_owned(),
        r#"<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">"#
            .to_owned(),
        format!("<!-- {MARK} {DESCRIPTION} -->"),
        r#"<plist version="1.0">"#.to_owned(),
        "<dict>".to_owned(),
    ];
    lines.extend([key("Label"), text("label", LABEL)?]);
    lines.extend([key("ProgramArguments"), "<array>".to_owned()]);
    lines.push(text("program", &definition.program)?);
    for argument in &definition.arguments {
        lines.push(text("flag", &argument.word())?);
    }
    lines.push("</array>".to_owned());
    if !definition.environment.is_empty() {
        lines.extend([key("EnvironmentVariables"), "<dict>".to_owned()]);
        for (name, value) in &definition.environment {
            lines.extend([key(name), text("value", value)?]);
        }
        lines.push("</dict>".to_owned());
    }
    if let Some(directory) = &definition.directory {
        lines.extend([key("WorkingDirectory"), text("directory", directory)?]);
    }
    if let Some(user) = &definition.run_as {
        lines.extend([key("UserName"), text("user", user)?]);
    }
    for place in ["StandardOutPath", "StandardErrorPath"] {
        lines.extend([key(place), text("log", &definition.log)?]);
    }
    let stop = definition.shutdown_timeout.as_secs() + STOP_MARGIN_SECONDS;
    lines.extend([key("RunAtLoad"), "<true/>".to_owned()]);
    // A host that was told to stop stays away, one that failed comes back.
    lines.extend([key("KeepAlive"), "<dict><key>SuccessfulExit</key><false/></dict>".to_owned()]);
    lines.extend([key("ExitTimeOut"), format!("<integer>{stop}</integer>")]);
    lines.extend([key("Umask"), format!("<integer>{UMASK}</integer>")]);
    lines.extend(["</dict>".to_owned(), "</plist>".to_owned()]);
    Ok(lines.join("\n") + "\n")
}

/// Returns a key; these are names, and need no escape.
fn key(name: &str) -> String {
    format!("<key>{name}</key>")
}

fn text(what: &'static str, value: &str) -> Result<String, TextError> {
    Ok(format!("<string>{}</string>", escaped(what, value)?))
}

/// Returns a text for XML 1.0, which has no way to write control characters.
pub(super) fn escaped(what: &'static str, value: &str) -> Result<String, TextError> {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => return Err(TextError::character(what, value)),
            _ if character.is_control() => return Err(TextError::character(what, value)),
            _ => escaped.push(character),
        }
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Argument, Scope, definition::SecretVariables};
    use std::time::Duration;

    fn definition() -> Definition {
        Definition {
            scope: Scope::User,
            program: "/usr/local/bin/host".into(),
            arguments: vec![
                Argument::Text("foreground".into()),
                Argument::Text("--label=a=<b> & c".into()),
            ],
            environment: vec![("RUST_LOG".into(), "\"x\"</string>".into())],
            secret: None,
            directory: Some("/Users/me/w".into()),
            run_as: None,
            writable: Vec::new(),
            drains: false,
            shutdown_timeout: Duration::from_secs(10),
            log: "/Users/me/host.log".into(),
        }
    }

    #[test]
    fn a_property_list_says_what_was_asked_for_and_nothing_ends_a_text() {
        let list = property_list(&definition()).unwrap();
        for part in [
            "<key>Label</key>\n<string>host.lattice</string>",
            "<string>--label=a=&lt;b&gt; &amp; c</string>",
            "<key>RUST_LOG</key>\n<string>&quot;x&quot;&lt;/string&gt;</string>",
            "<key>WorkingDirectory</key>\n<string>/Users/me/w</string>",
            "<key>ExitTimeOut</key>\n<integer>25</integer>",
            "<key>Umask</key>\n<integer>63</integer>",
        ] {
            assert!(list.contains(part), "{part} in {list}");
        }
        assert_eq!(list.matches("<string>").count(), list.matches("</string>").count());
    }

    #[test]
    fn what_it_cannot_say_is_refused() {
        let drains = Definition { drains: true, ..definition() };
        assert!(matches!(property_list(&drains), Err(TextError::NotThere(_))));
        let variables = vec![("A_TOKEN".into(), "x".into())];
        let secret = SecretVariables { file: "/f".into(), variables };
        let secret = Definition { secret: Some(secret), ..definition() };
        assert!(matches!(property_list(&secret), Err(TextError::NotThere(_))));
        let broken = Definition { directory: Some("/a\nb".into()), ..definition() };
        assert!(matches!(property_list(&broken), Err(TextError::Character { .. })));
    }
}
