//! Entries about actors and providers that ran, in the forms of all eras.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::identity::{
    bounds::{self, ITEMS_MAX},
    claims::ActorClaims,
    provider::ProviderClaims,
};

/// The claims of an actor or a provider, as far as the bucket knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub subject: String,
    pub issuer: String,
    pub name: String,
    pub version: String,
    pub revision: String,
    pub call_alias: String,
    pub capabilities: Vec<String>,
    pub tags: Vec<String>,
    /// Of providers; empty for actors.
    pub contract_id: String,
    pub config_schema: Option<String>,
}

impl Claims {
    /// The entry an actor gets when it starts.
    pub fn of_actor(claims: &ActorClaims) -> Self {
        Self {
            subject: claims.subject.to_string(),
            issuer: claims.issuer.clone(),
            name: claims.name.clone().unwrap_or_default(),
            version: claims.version.clone().unwrap_or_default(),
            revision: claims.effective_revision().to_string(),
            call_alias: claims.call_alias.clone().unwrap_or_default(),
            capabilities: claims.caps.clone(),
            tags: claims.tags.clone(),
            ..Self::default()
        }
    }

    /// The entry a provider gets when it starts.
    pub fn of_provider(claims: &ProviderClaims) -> Self {
        Self {
            subject: claims.subject.to_string(),
            issuer: claims.issuer.clone(),
            name: claims.name.clone().unwrap_or_default(),
            version: claims.version.clone().unwrap_or_default(),
            revision: claims.effective_revision().to_string(),
            contract_id: claims.contract_id.clone(),
            config_schema: claims.config_schema.clone(),
            ..Self::default()
        }
    }

    /// Whether this entry is a provider's; its key decides, whatever else it holds.
    pub fn is_provider(&self) -> bool {
        self.subject.starts_with('V')
    }

    /// Reads an entry of any era; nothing if it is none, or larger than claims that hosts write:
    /// whoever may write to the bucket can put anything there, and every host keeps and tells it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let object: Map<String, Value> = serde_json::from_slice(value).ok()?;
        let text = |short: &str, long: &str| match object.get(short).or_else(|| object.get(long)) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let list = |short: &str, long: &str| match object.get(short).or_else(|| object.get(long)) {
            Some(Value::Array(items)) => {
                let texts = items.iter().filter_map(|item| Some(item.as_str()?.to_owned()));
                texts.take(ITEMS_MAX + 1).collect()
            }
            Some(Value::String(text)) if !text.is_empty() => {
                text.split(',').take(ITEMS_MAX + 1).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let claims = Self {
            subject: text("sub", "subject"),
            issuer: text("iss", "issuer"),
            name: text("name", "name"),
            version: text("version", "ver"),
            revision: text("rev", "revision"),
            call_alias: text("call_alias", "call_alias"),
            capabilities: list("caps", "capabilities"),
            tags: list("tags", "tags"),
            contract_id: text("contract_id", "contract_id"),
            config_schema: object.get("config_schema").and_then(Value::as_str).map(str::to_owned),
        };
        (!claims.subject.is_empty() && claims.is_bounded()).then_some(claims)
    }

    fn is_bounded(&self) -> bool {
        let texts = [
            ("subject", self.subject.as_str()),
            ("issuer", self.issuer.as_str()),
            ("name", self.name.as_str()),
            ("version", self.version.as_str()),
            ("revision", self.revision.as_str()),
            ("call alias", self.call_alias.as_str()),
            ("contract", self.contract_id.as_str()),
        ];
        let lists =
            [("capabilities", self.capabilities.as_slice()), ("tags", self.tags.as_slice())];
        bounds::check(&texts, &lists, self.config_schema.as_deref()).is_ok()
    }

    /// The bucket's form: short names, texts only. A provider's entry leaves `caps` and `tags` out,
    /// which is how hosts of 2024 tell it from an actor's.
    pub fn bucket_value(&self) -> Value {
        let mut object = Map::new();
        let mut put =
            |key: &str, value: String| object.insert(key.to_owned(), Value::String(value));
        put("call_alias", self.call_alias.clone());
        if self.is_provider() {
            put("contract_id", self.contract_id.clone());
            if let Some(schema) = &self.config_schema {
                put("config_schema", schema.clone());
            }
        } else {
            put("caps", self.capabilities.join(","));
            put("tags", self.tags.join(","));
        }
        put("iss", self.issuer.clone());
        put("name", self.name.clone());
        put("rev", self.revision.clone());
        put("sub", self.subject.clone());
        put("version", self.version.clone());
        Value::Object(object)
    }

    /// The form of a `get.claims` reply: texts only, under the names of both eras.
    pub fn reply_value(&self) -> BTreeMap<&'static str, String> {
        let mut map = BTreeMap::from([
            ("sub", self.subject.clone()),
            ("subject", self.subject.clone()),
            ("iss", self.issuer.clone()),
            ("issuer", self.issuer.clone()),
            ("name", self.name.clone()),
            ("version", self.version.clone()),
            ("rev", self.revision.clone()),
            ("revision", self.revision.clone()),
            ("caps", self.capabilities.join(",")),
            ("capabilities", self.capabilities.join(",")),
            ("tags", self.tags.join(",")),
            ("call_alias", self.call_alias.clone()),
            ("contract_id", self.contract_id.clone()),
        ]);
        if self.is_provider() {
            map.insert("config_schema", self.config_schema.clone().unwrap_or_default());
        }
        map
    }
}
