//! Hides texts from callers that have not logged in: values of links, and whatever actors and
//! providers say.
//!
//! Names, states and numbers are shown to everybody who may read. Where a sentence of ours quotes
//! foreign words, only these are hidden. A list is masked before it is searched, or its answers
//! would tell what is behind the masks.

use serde::Serialize;

use super::auth::Access;

/// Stands in place of what is hidden.
pub const HIDDEN: &str = "(log in to read it)";

/// Something with parts that not everybody may read.
pub trait Mask {
    /// Hides them.
    fn mask(&mut self);
}

impl<T: Mask> Mask for Vec<T> {
    fn mask(&mut self) {
        self.iter_mut().for_each(Mask::mask);
    }
}

/// Hides a text that is there.
pub fn hide(text: &mut Option<String>) {
    if let Some(text) = text {
        HIDDEN.clone_into(text);
    }
}

impl Access {
    /// Something as this one may see it.
    pub fn view<T: Mask>(self, mut item: T) -> T {
        if self == Self::Reader {
            item.mask();
        }
        item
    }
}

/// Something as JSON, in both forms.
pub fn both<T: Mask + Clone + Serialize>(item: &T) -> serde_json::Result<(String, String)> {
    let mut masked = item.clone();
    masked.mask();
    Ok((serde_json::to_string(item)?, serde_json::to_string(&masked)?))
}
