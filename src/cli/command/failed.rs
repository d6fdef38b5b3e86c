//! A call that failed, found by the id that its client was told: who called whom, and why it
//! failed.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    clock,
    terminal::{Page, Terminal, Tone, View},
};
use lattice_client::{
    failures::{self, Failure},
    lattice::Lattice,
    names,
};
use lattice_protocol::{
    control::{probe::failures::Ask, types::HostReply},
    errors::Usage,
    links::link_option,
};

/// A shorter beginning of an id says too little.
const ID_MIN: usize = 8;

/// Shows a failed call by its id, or the beginning of it.
pub async fn explain(terminal: &Terminal, lattice: &Lattice, id: &str) -> Result<()> {
    if id.len() < ID_MIN {
        bail!(Usage(format!(
            "{id:?} alone is no id of a failed call, of which the first {ID_MIN} letters are needed; to explain a call, name \
             its caller, its target and the operation"
        )));
    }
    let hosts = lattice.some_hosts().await?;
    let ask = Ask { id: Some(id.to_owned()), ..Ask::default() };
    let found = failures::last(lattice, &hosts, &ask).await;
    if found.is_empty() {
        bail!(
            "no host keeps a failed call with the id {id}: hosts keep the last ones only, and forget them when they stop. To \
             explain how a call would be decided now: host explain CALLER TARGET OPERATION"
        );
    }
    terminal.show(&Found { found, hosts })
}

struct Found {
    found: Vec<Failure>,
    hosts: Vec<HostReply>,
}

impl View for Found {
    fn json(&self) -> Value {
        let rows = self.found.iter().map(|Failure { host_id, call }| {
            let mut row = json!(call);
            row["host_id"] = Value::from(host_id.as_str());
            row
        });
        json!({ "failures": rows.collect::<Vec<_>>() })
    }

    fn text(&self, page: &mut Page) {
        for Failure { host_id, call } in &self.found {
            let at = clock::time_of(clock::of_ms(call.at_ms));
            page.heading(&call.id);
            page.line(format!(
                "{} called {} of {}, at {at} on host {}",
                call.caller_called(),
                call.operation,
                call.target_called(),
                names::host_name(host_id, &self.hosts)
            ));
            page.line(Tone::Bad.paint(&format!("it {}: {}", call.kind.words(), call.reason)));
            page.line(format!(
                "how it would be decided now: host explain {} {} {}{}",
                call.caller_called(),
                if call.contract_id.is_empty() { call.target_called() } else { &call.contract_id },
                call.operation,
                link_option(&call.link_name)
            ));
        }
    }

    fn names(&self) -> Vec<String> {
        self.found.iter().map(|failure| failure.call.id.clone()).collect()
    }
}
