//! A task of the Task Scheduler of Windows, which starts the host with the machine or with the
//! login of its user. Only the file is made; `schtasks` takes it.

use super::{Argument, DESCRIPTION, Definition, MARK, Scope, TextError, launchd::escaped};

/// Returns the text of a task.
pub fn document(definition: &Definition) -> Result<String, TextError> {
    if !definition.environment.is_empty() || definition.secret.is_some() {
        return Err(TextError::NotThere(
            "--env: a task of Windows has no variables of its own; give the settings as flags",
        ));
    }
    if definition.drains {
        return Err(TextError::NotThere("--drain: Windows has no signals"));
    }
    let program = escaped("program", &definition.program)?;
    let arguments = escaped("flags", &command_line(&definition.arguments))?;
    let (trigger, principal) = match definition.scope {
        Scope::System => ("BootTrigger", "<UserId>S-1-5-19</UserId>"),
        Scope::User => ("LogonTrigger", "<LogonType>InteractiveToken</LogonType>"),
    };
    let directory = match &definition.directory {
        Some(directory) => {
            let directory = escaped("directory", directory)?;
            format!("\n      <WorkingDirectory>{directory}</WorkingDirectory>")
        }
        None => String::new(),
    };
    Ok(format!(
        r#"<?xml version="1.0"?>
<!-- {MARK} -->
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>{DESCRIPTION}</Description>
  </RegistrationInfo>
  <Triggers>
    <{trigger}><Enabled>true</Enabled></{trigger}>
  </Triggers>
  <Principals>
    <Principal id="Author">{principal}</Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure><Interval>PT1M</Interval><Count>999</Count></RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{program}</Command>
      <Arguments>{arguments}</Arguments>{directory}
    </Exec>
  </Actions>
</Task>
"#
    ))
}

fn command_line(arguments: &[Argument]) -> String {
    let words: Vec<String> = arguments.iter().map(|argument| word(&argument.word())).collect();
    words.join(" ")
}

/// Returns a word as programs of Windows take command lines apart: backslashes count only in front
/// of a quote.
fn word(text: &str) -> String {
    let mut word = String::from('"');
    let mut backslashes = 0;
    for character in text.chars() {
        match character {
            '\\' => backslashes += 1,
            '"' => {
                word.push_str(&"\\".repeat(backslashes * 2 + 1));
                word.push('"');
                backslashes = 0;
            }
            _ => {
                word.push_str(&"\\".repeat(backslashes));
                word.push(character);
                backslashes = 0;
            }
        }
    }
    word.push_str(&"\\".repeat(backslashes * 2));
    word.push('"');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_itself() {
        for (text, expected) in [
            ("a b", r#""a b""#),
            (r"C:\lattice\", r#""C:\lattice\\""#),
            (r#"a"b"#, r#""a\"b""#),
            (r#"a\"b"#, r#""a\\\"b""#),
            ("", r#""""#),
        ] {
            assert_eq!(word(text), expected, "{text}");
        }
    }
}
