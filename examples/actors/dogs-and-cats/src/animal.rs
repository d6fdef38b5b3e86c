//! The two animals: which one is asked for, and the answers of the API of each.

use serde::Deserialize;

/// The animal on the picture.
#[derive(Clone, Copy)]
pub enum Animal {
    Dog,
    Cat,
}

/// Somebody asked for an animal that is neither.
pub struct Unknown(pub String);

/// The answer of `dog.ceo`.
#[derive(Deserialize)]
struct DogAnswer {
    /// The address, or what went wrong.
    message: String,
    status: String,
}

/// An element of the answer of `api.thecatapi.com`.
#[derive(Deserialize)]
struct CatAnswer {
    url: String,
}

impl Animal {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dog => "dog",
            Self::Cat => "cat",
        }
    }

    /// The address that tells addresses of pictures.
    pub fn api(self) -> &'static str {
        match self {
            Self::Dog => "https://dog.ceo/api/breeds/image/random",
            Self::Cat => "https://api.thecatapi.com/v1/images/search",
        }
    }

    /// The address of a picture in an answer of the API; an error continues a sentence about the API.
    pub fn picture_url(self, answer: &[u8]) -> Result<String, String> {
        let no_json = |error: serde_json::Error| format!("answers what cannot be understood: {error}");
        match self {
            Self::Dog => {
                let answer: DogAnswer = serde_json::from_slice(answer).map_err(no_json)?;
                if answer.status != "success" {
                    return Err(format!("answers with {}: {}", answer.status, answer.message));
                }
                Ok(answer.message)
            }
            Self::Cat => {
                let answer: Vec<CatAnswer> = serde_json::from_slice(answer).map_err(no_json)?;
                answer.into_iter().next().map(|first| first.url).ok_or_else(|| "knows no picture".to_owned())
            }
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Dog, Self::Cat].into_iter().find(|animal| name.eq_ignore_ascii_case(animal.name()))
    }
}

/// The animal that a request asks for, if it does: in its query, or with the end of its path, because what is before that
/// may be there to find this actor.
pub fn chosen(path: &str, query: &str) -> Result<Option<Animal>, Unknown> {
    if let Some((_, name)) = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "animal") {
        return Animal::named(&name).map(Some).ok_or_else(|| Unknown(name.into_owned()));
    }
    let last = path.rsplit('/').find(|part| !part.is_empty());
    Ok(last.and_then(Animal::named))
}
