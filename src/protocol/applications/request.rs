//! The subjects of the API (wadm, section 1.1): `wadm.api.{lattice}.model.{operation}[.{name}]`.

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// All applications, as an array.
    List,
    /// All applications, as later versions answer `get` without a name.
    Models,
    Get(&'a str),
    Versions(&'a str),
    Put,
    Delete(&'a str),
    Deploy(&'a str),
    Undeploy(&'a str),
    Status(&'a str),
    /// The rollout of an application: looked at, stopped, or ended. An extension of ours.
    Rollout(&'a str),
}

/// Why a subject asks for nothing, in the words of the old manager.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRequest {
    #[error("Invalid subject: {0} (expected wadm.api.LATTICE.model.OPERATION)")]
    TooShort(String),
    #[error(
        "Invalid subject: {0} (the name of an application has letters, digits, dashes and underscores only)"
    )]
    TooLong(String),
    #[error("Unsupported subject: {0}")]
    Unsupported(String),
    #[error("Deployment history is not supported; `versions` lists the versions of an application")]
    History,
}

impl<'a> Request<'a> {
    /// Reads a subject; `root` is `wadm.api.{lattice}`.
    pub fn parse(root: &str, subject: &'a str) -> Result<Self, NoRequest> {
        let tokens = subject.strip_prefix(root).and_then(|rest| rest.strip_prefix('.'));
        let tokens: Vec<&str> = tokens.unwrap_or_default().split('.').collect();
        match tokens[..] {
            ["model", operation] => Self::of_all(operation),
            ["model", operation, name] => return Self::of_one(operation, name, subject),
            [_, _] | [_, _, _] => None,
            [_] | [] => return Err(NoRequest::TooShort(subject.to_owned())),
            _ => return Err(NoRequest::TooLong(subject.to_owned())),
        }
        .ok_or_else(|| NoRequest::Unsupported(subject.to_owned()))
    }

    fn of_all(operation: &str) -> Option<Self> {
        [Self::List, Self::Models, Self::Put].into_iter().find(|one| one.operation() == operation)
    }

    fn of_one(operation: &str, name: &'a str, subject: &str) -> Result<Self, NoRequest> {
        if operation == "history" {
            return Err(NoRequest::History);
        }
        let all = [
            Self::Get(name),
            Self::Versions(name),
            Self::Delete(name),
            Self::Deploy(name),
            Self::Undeploy(name),
            Self::Status(name),
            Self::Rollout(name),
        ];
        let found = all.into_iter().find(|one| one.operation() == operation);
        found.ok_or_else(|| NoRequest::Unsupported(subject.to_owned()))
    }

    /// Returns the subject to ask on; `root` is `wadm.api.{lattice}`.
    pub fn subject(&self, root: &str) -> String {
        let all = format!("{root}.model.{}", self.operation());
        self.application().map_or_else(|| all.clone(), |name| format!("{all}.{name}"))
    }

    /// Returns the application that is asked about.
    pub fn application(&self) -> Option<&'a str> {
        match self {
            Self::List | Self::Models | Self::Put => None,
            Self::Get(name)
            | Self::Versions(name)
            | Self::Delete(name)
            | Self::Deploy(name)
            | Self::Undeploy(name)
            | Self::Status(name)
            | Self::Rollout(name) => Some(name),
        }
    }

    /// Returns the word of the subject.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Models | Self::Get(_) => "get",
            Self::Versions(_) => "versions",
            Self::Put => "put",
            Self::Delete(_) => "del",
            Self::Deploy(_) => "deploy",
            Self::Undeploy(_) => "undeploy",
            Self::Status(_) => "status",
            Self::Rollout(_) => "rollout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_as_the_old_manager_does() {
        let root = "wadm.api.default";
        for (tail, expected) in [
            ("model.list", Ok(Request::List)),
            ("model.get", Ok(Request::Models)),
            ("model.get.shop", Ok(Request::Get("shop"))),
            ("model.versions.shop", Ok(Request::Versions("shop"))),
            ("model.put", Ok(Request::Put)),
            ("model.del.shop", Ok(Request::Delete("shop"))),
            ("model.deploy.shop", Ok(Request::Deploy("shop"))),
            ("model.undeploy.shop", Ok(Request::Undeploy("shop"))),
            ("model.status.shop", Ok(Request::Status("shop"))),
            ("model.rollout.shop", Ok(Request::Rollout("shop"))),
            ("model.history.shop", Err("Deployment history")),
            ("model", Err("Invalid subject: wadm.api.default.model")),
            ("model.get.petclinic.foo.bar", Err("Invalid subject: ")),
            ("blah.get.petclinic", Err("Unsupported subject: wadm.api.default.blah.get.petclinic")),
            ("model.list.shop", Err("Unsupported subject: ")),
            ("model.put.shop", Err("Unsupported subject: ")),
            ("model.deploy", Err("Unsupported subject: ")),
            ("model.fly.shop", Err("Unsupported subject: ")),
        ] {
            let subject = format!("{root}.{tail}");
            let read = Request::parse(root, &subject).map_err(|error| error.to_string());
            match (read, expected) {
                (Ok(read), Ok(expected)) => {
                    assert_eq!(read.subject(root), subject);
                    assert_eq!(read, expected);
                }
                (Err(error), Err(begin)) => assert!(error.starts_with(begin), "{error}"),
                (read, _) => panic!("{tail}: {read:?}"),
            }
        }
    }
}
