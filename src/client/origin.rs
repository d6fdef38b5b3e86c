//! The sender of a command, as hosts note it in their history: told with each request, in the
//! header [`ORIGIN_HEADER`](lattice_protocol::history::ORIGIN_HEADER).
//!
//! A lattice has an origin of its own ([`Lattice::with_origin`](super::lattice::Lattice)); where
//! one process sends for many, such as a dashboard for its sessions, [`scope`] says for whom a
//! piece of work is done.

use lattice_protocol::history::Origin;

tokio::task_local! {
    static CURRENT: Origin;
}

/// Does a piece of work for somebody: the requests in it are told as this one's.
pub async fn scope<F: Future>(origin: Origin, work: F) -> F::Output {
    CURRENT.scope(origin, work).await
}

/// Returns for whom this task works, if that was said.
pub fn current() -> Option<Origin> {
    CURRENT.try_with(Origin::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_piece_of_work_is_done_for_the_one_that_was_said_last() {
        let of = |who: &str| Origin { who: who.to_owned(), ..Origin::default() };
        assert_eq!(current(), None);
        let (inner, outer) = scope(of("a"), async {
            let inner = scope(of("b"), async { current() }).await;
            (inner, current())
        })
        .await;
        assert_eq!((inner, outer), (Some(of("b")), Some(of("a"))));
    }
}
