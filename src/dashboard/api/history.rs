//! The history of the lattice beside its events: commands, and figures of each minute.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ErrorBody, Query, Refusal, events::range, links::default_link_name, page::fitting};
use crate::{
    Dashboard,
    auth::Access,
    model::{
        past::{
            Command, Keeping, Past,
            figures::PastSeries,
            marks::{self, Mark},
        },
        rates::Of,
    },
};
use lattice_client::history::Range;
use lattice_protocol::history::figures::MINUTE_MS;

const LIMIT: usize = 200;
const LIMIT_MAX: usize = 2000;
/// The spans of time of figures, by their names, in minutes.
const RANGES: [(&str, u64); 4] = [("15m", 15), ("1h", 60), ("6h", 360), ("24h", 1440)];

/// Which commands are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Commands with this text in their verb, what they are about, who sent them, or their host.
    #[serde(default)]
    q: String,
    /// `accepted`, `refused` or `unknown`.
    #[serde(default)]
    outcome: String,
    /// Commands of this host.
    #[serde(default)]
    host: String,
    /// Commands since this moment, in milliseconds since 1970; those of the last day unless given.
    since: Option<u64>,
    /// Commands until this moment.
    until: Option<u64>,
    /// 200 unless given, 2000 at most.
    limit: Option<usize>,
}

impl Wanted {
    fn takes(&self, command: &Command, text: &str) -> bool {
        (self.outcome.is_empty() || command.outcome == self.outcome)
            && (self.host.is_empty() || command.host_id == self.host)
            && (text.is_empty() || {
                let Command { verb, subject, who, from, host_name, reason, .. } = command;
                let all = format!("{verb} {subject} {who} {from} {host_name} {reason}");
                all.to_lowercase().contains(text)
            })
    }
}

/// Some commands.
#[derive(Serialize, ToSchema)]
pub struct Commands {
    /// Newest first.
    items: Vec<Command>,
    /// Older ones fit as well.
    is_more: bool,
    keeping: Keeping,
}

/// Lists the commands that hosts took or refused, newest first
///
/// The sender of one is as it says: a program of this make names its user, a dashboard its
/// session, the keeping of applications the application. Programs of others say nothing.
#[utoipa::path(get, path = "/api/v1/audit", tag = "lattice", params(Wanted), responses((status = 200, body = Commands)))]
pub async fn audit(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(wanted): Query<Wanted>,
) -> Json<Commands> {
    dashboard.model().mark_viewed().await;
    let text = wanted.q.trim().to_lowercase();
    let limit = wanted.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let read = dashboard.past().commands(range(wanted.since, wanted.until)).await;
    let (all, failure) = match read {
        Ok(all) => (all, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let (items, is_more) = fitting(all, access, limit, |command| wanted.takes(command, &text));
    Json(Commands { items, is_more, keeping: Past::keeping(&dashboard).unless(failure) })
}

/// Which figures are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Chart {
    /// `lattice`, `host`, `actor` or `provider`.
    of: String,
    /// Of the host, the actor or the provider.
    #[serde(default)]
    id: String,
    /// Of a provider; `default` unless given.
    #[serde(default)]
    link_name: String,
    /// `15m`, `1h`, `6h` or `24h`; 1h unless given.
    #[serde(default)]
    range: String,
}

impl Chart {
    fn subject(&self) -> Result<Of, Refusal> {
        let (id, link_name) = (self.id.clone(), self.link_name.clone());
        match self.of.as_str() {
            "lattice" => Ok(Of::Lattice),
            _ if id.is_empty() => Err(Refusal::wrong("id is missing: whose figures are wanted?")),
            "host" => Ok(Of::Host(id)),
            "actor" => Ok(Of::Target(id, String::new())),
            "provider" if link_name.is_empty() => Ok(Of::Target(id, default_link_name())),
            "provider" => Ok(Of::Target(id, link_name)),
            _ => Err(Refusal::wrong("of is lattice, host, actor or provider")),
        }
    }

    fn span_ms(&self) -> Result<u64, Refusal> {
        let wanted = if self.range.is_empty() { "1h" } else { &self.range };
        let known = RANGES.iter().find(|(name, _)| *name == wanted);
        let (_, minutes) = known.ok_or_else(|| Refusal::wrong("range is 15m, 1h, 6h or 24h"))?;
        Ok(minutes * MINUTE_MS)
    }
}

/// Figures of a span of time, and what happened meanwhile.
#[derive(Serialize, ToSchema)]
pub struct Figures {
    #[serde(flatten)]
    series: PastSeries,
    /// Oldest first.
    marks: Vec<Mark>,
    keeping: Keeping,
}

/// Returns the figures of each minute, with starts, updates, stops and losses
#[utoipa::path(get, path = "/api/v1/history/rates", tag = "lattice", params(Chart),
    responses((status = 200, body = Figures), (status = 422, body = ErrorBody)))]
pub async fn rates(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(chart): Query<Chart>,
) -> Result<Json<Figures>, Refusal> {
    let (of, span_ms) = (chart.subject()?, chart.span_ms()?);
    dashboard.model().mark_viewed().await;
    let past = dashboard.past();
    let (series, events) =
        tokio::join!(past.series(&of, span_ms), past.events(&dashboard, Range::last(span_ms)));
    let (series, failure) = match series {
        Ok(series) => (PastSeries::clone(&series), None),
        Err(error) => (PastSeries::default(), Some(error.to_string())),
    };
    let events = events.unwrap_or_default();
    // Marks are sentences of events, and these may quote what not everybody may read.
    let events = match access {
        Access::Operator => events,
        Access::Reader => events.into_iter().map(|entry| entry.masked_text()).collect(),
    };
    let marks = marks::of(&events, &of);
    Ok(Json(Figures { series, marks, keeping: Past::keeping(&dashboard).unless(failure) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(of: &str, id: &str, range: &str) -> Chart {
        Chart { of: of.into(), id: id.into(), link_name: String::new(), range: range.into() }
    }

    #[test]
    fn a_chart_is_of_something_there_can_be() {
        assert_eq!(chart("lattice", "", "").subject(), Ok(Of::Lattice));
        assert_eq!(chart("host", "N1", "").subject(), Ok(Of::Host("N1".into())));
        let provider = chart("provider", "V1", "").subject();
        assert_eq!(provider, Ok(Of::Target("V1".into(), "default".into())));
        assert!(chart("host", "", "").subject().is_err() && chart("x", "y", "").subject().is_err());
        let minutes = |range: &str| chart("lattice", "", range).span_ms().map(|ms| ms / MINUTE_MS);
        assert_eq!((minutes(""), minutes("15m"), minutes("24h")), (Ok(60), Ok(15), Ok(1440)));
        assert!(minutes("1y").is_err());
    }
}
