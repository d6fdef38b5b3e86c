//! `GET /api/v1/stream`: what changes, as server-sent events, so that the page asks for nothing
//! that did not change.
//!
//! A stream that cannot keep up is told to fetch everything, and goes on. A host that is told to
//! stop says so at once (`stopping`), and goes on telling what changes until it has finished its
//! calls. Then the stream ends, and the page connects again to whatever comes then.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, stream};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Dashboard,
    auth::Access,
    listen::Caller,
    model::{Collection, View},
    refusal::Refusal,
};

/// Streams at a time.
const STREAMS_MAX: usize = 256;
/// Proxies close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Streams changes, as server-sent events: hello, stopping, change, overview, event, operation,
/// tick
#[utoipa::path(get, path = "/api/v1/stream", tag = "lattice",
    responses((status = 200, content_type = "text/event-stream", description = "events without end")))]
pub async fn stream(
    State(dashboard): State<Dashboard>,
    Extension(caller): Extension<Caller>,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
) -> Response {
    let model = dashboard.model().clone();
    if model.viewers() >= STREAMS_MAX {
        let text = format!("{STREAMS_MAX} pages are open already; close one");
        return Refusal::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    let view = model.view();
    let reader = Reader { access, caller: caller.ip(), headers };
    Sse::new(events(dashboard, view, reader))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// A client that reads a stream.
struct Reader {
    access: Access,
    caller: IpAddr,
    headers: HeaderMap,
}

impl Reader {
    /// Tells whether it may still read what it could at the beginning: a session may be over
    /// meanwhile.
    fn is_still_in(&self, dashboard: &Dashboard) -> bool {
        self.access == Access::Reader
            || dashboard.auth().access(self.caller, &self.headers) == Ok(self.access)
    }
}

fn events(
    dashboard: Dashboard,
    view: View,
    reader: Reader,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let first = vec![hello(&dashboard, reader.access), everything(&dashboard)];
    let state = (first.into_iter(), view, dashboard, reader, false);
    stream::unfold(state, |(mut first, mut view, dashboard, reader, mut is_told)| async move {
        if let Some(event) = first.next() {
            return Some((Ok(event), (first, view, dashboard, reader, is_told)));
        }
        let event = tokio::select! {
            // That it stops comes before its end.
            biased;
            () = dashboard.parts().context.lifeline.closing.cancelled(), if !is_told => {
                is_told = true;
                stopping(&dashboard)
            }
            () = dashboard.0.stop.cancelled() => return None,
            news = view.news.recv() => match news {
                Ok(_) if !reader.is_still_in(&dashboard) => return None,
                Ok(news) => event(news.name, news.data(reader.access)),
                // As if it had just begun: operations are not among the lists that have revisions.
                Err(RecvError::Lagged(_)) => {
                    first = vec![everything(&dashboard)].into_iter();
                    hello(&dashboard, reader.access)
                }
                Err(RecvError::Closed) => return None,
            },
        };
        Some((Ok(event), (first, view, dashboard, reader, is_told)))
    })
}

/// Tells which host this is; the page begins anew with it.
fn hello(dashboard: &Dashboard, access: Access) -> Event {
    let facts = dashboard.parts().context.state.facts();
    let hello = json!({
        "lattice": facts.lattice,
        "host_id": facts.id.as_str(),
        "host_name": facts.friendly_name,
        "version": lattice_engine::control::state::VERSION,
        "life": dashboard.0.life,
        "is_logged_in": access == Access::Operator,
        "state": dashboard.parts().context.state.readiness().word(),
        "is_connected": dashboard.is_connected(),
    });
    event("hello", &hello.to_string())
}

/// Tells that this host stops, and since when.
fn stopping(dashboard: &Dashboard) -> Event {
    let state = &dashboard.parts().context.state;
    let stopping = json!({
        "host_id": state.facts().id.as_str(),
        "host_name": state.facts().friendly_name,
        "since_ms": state.stopping_since_ms(),
    });
    event("stopping", &stopping.to_string())
}

/// All revisions, so that the page fetches whatever it shows.
fn everything(dashboard: &Dashboard) -> Event {
    let revisions: Map<String, Value> = Collection::ALL
        .iter()
        .map(|collection| {
            (collection.name().to_owned(), dashboard.model().revision(*collection).into())
        })
        .collect();
    event("change", &Value::Object(revisions).to_string())
}

fn event(name: &str, data: &str) -> Event {
    Event::default().event(name).data(data)
}
