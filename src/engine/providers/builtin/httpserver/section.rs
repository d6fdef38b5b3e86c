//! Values of a link that belong together, those of `cors` and of `tls`: one JSON object, or single
//! values.

use serde_json::{Map, Value as Json};

use super::{
    super::{
        LinkError,
        values::{Unknown, Values, wrong},
    },
    SPEC,
    settings::VALUES,
};

/// Values that are a JSON object of their own, `cors`, or single ones with its name before theirs,
/// `cors_max_age_secs`.
pub(super) struct Section<'a> {
    name: &'static str,
    members: Map<String, Json>,
    values: &'a Values,
}

impl<'a> Section<'a> {
    pub(super) fn read(
        values: &'a Values,
        name: &'static str,
        unknown: &mut Vec<Unknown>,
    ) -> Result<Self, LinkError> {
        // A single value first, as everywhere.
        let parsed = match values.text(name) {
            Some(text) => serde_json::from_str(&text).ok(),
            None => Some(Json::Object(Map::new())),
        };
        let Some(Json::Object(members)) = parsed else {
            return Err(LinkError::Values(format!("link value {name} is no JSON object")));
        };
        let section = Self { name, members, values };
        for member in section.members.keys().filter(|member| !section.is_known(member)) {
            unknown.push(Unknown::new(&SPEC, &format!("{name}_{member}")));
        }
        Ok(section)
    }

    fn single(&self, member: &str) -> String {
        format!("{}_{member}", self.name)
    }

    fn is_known(&self, member: &str) -> bool {
        let name = self.single(member);
        VALUES.iter().any(|value| value.name == name || value.aliases.contains(&name.as_str()))
    }

    /// A member, also by another spelling of the single value.
    fn member(&self, member: &str) -> Option<&Json> {
        let name = self.single(member);
        let aliases =
            VALUES.iter().find(|value| value.name == name).map_or(&[][..], |value| value.aliases);
        let mut others =
            aliases.iter().filter_map(|alias| alias.strip_prefix(self.name)?.strip_prefix('_'));
        self.members.get(member).or_else(|| others.find_map(|other| self.members.get(other)))
    }

    pub(super) fn text(&self, member: &str) -> Option<String> {
        self.values.text(&self.single(member)).or_else(|| {
            let text = self.member(member)?.as_str()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        })
    }

    pub(super) fn list(&self, member: &str) -> Result<Option<Vec<String>>, LinkError> {
        let name = self.single(member);
        if let Some(list) = self.values.list(&name)? {
            return Ok(Some(list));
        }
        let Some(given) = self.members.get(member) else { return Ok(None) };
        let texts: Option<Vec<String>> = match given {
            Json::Null => return Ok(None),
            Json::String(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(items.map(str::to_owned).collect())
            }
            Json::Array(items) => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        texts.map(Some).ok_or_else(|| wrong(&name, &given.to_string(), "an array of texts"))
    }

    pub(super) fn number(&self, member: &str) -> Result<Option<u64>, LinkError> {
        let name = self.single(member);
        if let Some(number) = self.values.number(&name)? {
            return Ok(Some(number));
        }
        match self.members.get(member) {
            None | Some(Json::Null) => Ok(None),
            Some(number) => number
                .as_u64()
                .map(Some)
                .ok_or_else(|| wrong(&name, &number.to_string(), "a whole number")),
        }
    }
}
