//! Which names containers and objects may have.
//!
//! The same for all backends, so that a link can change from one to the other: what would be a path
//! out of the directory is no name, and neither is what file systems cannot hold. Objects may have
//! `/` in their names, which are folders in a directory; containers may not.

/// File systems take no more for one part.
const PART_BYTES_MAX: usize = 255;
/// The subject of an object in JetStream carries its name.
const OBJECT_BYTES_MAX: usize = 1024;

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} cannot be used as a name: {cause}")]
pub struct NameError {
    what: &'static str,
    name: String,
    cause: &'static str,
}

/// Checks the name of a container.
pub fn check_container(name: &str) -> Result<(), NameError> {
    let checked = if name.contains('/') {
        Err("it contains a slash")
    } else if name.starts_with('.') {
        // The provider's own folders have such names.
        Err("it begins with a dot")
    } else {
        check_part(name)
    };
    checked.map_err(|cause| NameError { what: "container", name: shortened(name), cause })
}

/// Checks the name of an object.
pub fn check_object(name: &str) -> Result<(), NameError> {
    let checked = if name.len() > OBJECT_BYTES_MAX {
        Err("it is longer than 1024 bytes")
    } else {
        name.split('/').try_for_each(check_part)
    };
    checked.map_err(|cause| NameError { what: "object", name: shortened(name), cause })
}

fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("it is empty, or a part between slashes is");
    }
    if part == "." || part == ".." {
        return Err("a part of it is . or .., which would lead elsewhere");
    }
    if part.len() > PART_BYTES_MAX {
        return Err("a part of it is longer than 255 bytes");
    }
    if part.contains(|c: char| c == '\\' || c.is_control()) {
        return Err("it contains a backslash or a control character");
    }
    // This system may read it as more than a plain name, such as a drive.
    let mut components = std::path::Path::new(part).components();
    match (components.next(), components.next()) {
        (Some(std::path::Component::Normal(_)), None) => Ok(()),
        _ => Err("it is no plain file name"),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/",
            "/etc",
            "a\0b",
            "a\\b",
            ".meta",
            "\n",
            &"x".repeat(256),
        ] {
            assert!(check_container(name).is_err(), "{name:?}");
        }
        for name in [
            "",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a\0",
            "..\\a",
            &"x/".repeat(600),
        ] {
            assert!(check_object(name).is_err(), "{name:?}");
        }
        let error = check_object("../../etc/passwd").unwrap_err().to_string();
        assert!(error.contains("../../etc/passwd") && error.contains("elsewhere"), "{error}");
    }

    #[test]
    fn ordinary_names_are_fine() {
        for name in ["photos", "Фото 2024", "a.b", "a:b", "...x".trim_start_matches('.')] {
            assert_eq!(check_container(name), Ok(()), "{name:?}");
        }
        for name in ["a", "2024/12/cat.jpg", ".hidden", "..x", "a/.../b", "ü b"] {
            assert_eq!(check_object(name), Ok(()), "{name:?}");
        }
    }
}
