//! Pages of a list of objects.
//!
//! Names are in the order of their bytes. A continuation is the name after which the next page
//! begins, together with what the names began with in the first request, because a request with a
//! continuation need not repeat that.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::backend::{Error, Page};
use lattice_protocol::contracts::blobstore::{ListObjectsRequest, given};

/// As many objects as one answer has, whatever is asked for.
const ITEMS_MAX: usize = 1000;

/// The page a request asks for.
pub fn page(request: ListObjectsRequest) -> Result<Page, Error> {
    let (after, prefix) = match given(request.continuation) {
        Some(token) => {
            let (after, prefix) = read_continuation(&token).ok_or(Error::Continuation(token))?;
            (Some(after), prefix)
        }
        None => (None, request.start_with.unwrap_or_default()),
    };
    let limit =
        request.max_items.filter(|items| *items > 0).map_or(ITEMS_MAX, |items| items as usize);
    Ok(Page {
        prefix,
        after,
        end_with: given(request.end_with),
        end_before: given(request.end_before),
        limit: limit.min(ITEMS_MAX),
    })
}

/// Returns the continuation after a name.
pub fn continuation(after: &str, prefix: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{after}\0{prefix}"))
}

fn read_continuation(token: &str) -> Option<(String, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (after, prefix) = text.split_once('\0')?;
    Some((after.to_owned(), prefix.to_owned()))
}

impl Page {
    /// The items of this page, in order, and whether there are more.
    pub fn select<T>(&self, mut items: Vec<T>, name: impl Fn(&T) -> &str) -> (Vec<T>, bool) {
        items.retain(|item| self.has(name(item)));
        items.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let is_cut = items.len() > self.limit;
        items.truncate(self.limit);
        (items, is_cut)
    }

    fn has(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| name > after)
            && self.end_with.as_deref().is_none_or(|end| name <= end)
            && self.end_before.as_deref().is_none_or(|end| name < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(request: ListObjectsRequest) -> (String, bool) {
        let page = page(request).unwrap();
        let (names, is_cut) = page.select(vec!["d", "a", "bb", "c", "ba"], |name| name);
        (names.join(" "), is_cut)
    }

    fn request() -> ListObjectsRequest {
        ListObjectsRequest { container_id: "c".into(), ..Default::default() }
    }

    #[test]
    fn bounds_are_those_of_the_contract() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(listed(request()), ("a ba bb c d".into(), false));
        assert_eq!(
            listed(ListObjectsRequest { start_with: text("b"), ..request() }),
            ("ba bb".into(), false)
        );
        assert_eq!(
            listed(ListObjectsRequest { end_with: text("bb"), ..request() }),
            ("a ba bb".into(), false)
        );
        assert_eq!(
            listed(ListObjectsRequest { end_before: text("bb"), ..request() }),
            ("a ba".into(), false)
        );
        assert_eq!(
            listed(ListObjectsRequest { max_items: Some(2), ..request() }),
            ("a ba".into(), true)
        );
        assert_eq!(
            listed(ListObjectsRequest { max_items: Some(0), end_with: text(""), ..request() })
                .0
                .len(),
            11
        );
    }

    #[test]
    fn a_continuation_goes_on_where_the_page_ended() {
        let token = continuation("ba", "b");
        assert_eq!(
            listed(ListObjectsRequest { continuation: Some(token), ..request() }),
            ("bb".into(), false)
        );
        for token in ["?", "YQ"] {
            let request = ListObjectsRequest { continuation: Some(token.into()), ..request() };
            assert!(matches!(page(request), Err(Error::Continuation(_))));
        }
    }
}
