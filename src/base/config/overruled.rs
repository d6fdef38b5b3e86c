//! Values of the file that do not count because a variable says something else.
//!
//! Nothing is wrong with that, but who edits the file wonders why it has no effect; and a variable
//! that was set for another lattice makes every command here look at the wrong one.

use std::{fmt, path::Path};

use super::{
    file,
    origin::Origin,
    settings::Setting,
    sources::Layers,
    value::{self, Value},
};

/// A value of the file that a variable overrules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overruled {
    /// Key of the setting.
    pub key: &'static str,
    /// The line of the file that does not count.
    pub file: Origin,
    /// The variable that does.
    pub by: Origin,
    /// Both values; secrets are masked.
    pub value: String,
    pub instead_of: String,
}

impl fmt::Display for Overruled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, file, by, value, instead_of } = self;
        write!(f, "{key} ({by}): {value:?} overrules {instead_of:?} ({file})")
    }
}

/// Looks whether the file says something else than the variable that decided.
pub(super) fn find(
    setting: &'static Setting,
    decided: Option<&Value>,
    by: &Origin,
    layers: &Layers,
    dir: &Path,
) -> Option<Overruled> {
    if !matches!(by, Origin::Env(_) | Origin::Dotenv { .. }) {
        return None;
    }
    let keys = [setting.key].into_iter().chain(setting.other_keys.iter().copied());
    let member =
        keys.filter_map(|key| layers.file.iter().find(|member| member.key == key)).next()?;
    let text = file::text_of(&setting.kind, &member.value).ok().flatten()?;
    let said = value::parse(&setting.kind, &text, dir).ok()?;
    let decided = decided?;
    (said != *decided).then(|| Overruled {
        key: setting.key,
        file: Origin::File { path: layers.file_path.clone(), line: member.line },
        by: by.clone(),
        value: decided.to_string(),
        instead_of: said.to_string(),
    })
}
