//! `host get claims`: the claims of what has run in the lattice, and when they expire.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::by_name;
use crate::{
    command::watch::Looked,
    terminal::{Cell, Column, Page, Table, Tone, View},
};
use lattice_client::{expiry, lattice::Lattice};
use lattice_protocol::{clock, links::Claims};

pub(super) async fn look(lattice: &Lattice) -> Result<Looked> {
    let mut claims = lattice.claims().await?;
    claims.sort_by(|a, b| by_name(&a.name, &b.name, &a.subject, &b.subject));
    // A courtesy of the hosts that run something.
    let hosts = lattice.hosts().await.unwrap_or_default();
    let expires = expiry::ask(lattice, &hosts).await;
    Ok(Looked::all(AllClaims { claims, expires }))
}

struct AllClaims {
    claims: Vec<Claims>,
    /// When those of what runs expire, by public key, in seconds since 1970.
    expires: BTreeMap<String, u64>,
}

impl View for AllClaims {
    fn json(&self) -> Value {
        let rows = self.claims.iter().map(|claims| {
            let mut row = json!(claims.reply_value());
            if let Some(expires) = self.expires.get(&claims.subject) {
                row["expires"] = Value::from(*expires);
            }
            row
        });
        json!({ "claims": rows.collect::<Vec<_>>() })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::name("NAME"),
            Column::fixed("VERSION"),
            Column::number("REVISION"),
            Column::text("MAY USE, OR FULFILS"),
            Column::text("ALIAS").if_room(),
            Column::fixed("EXPIRES"),
            Column::id("SUBJECT"),
            Column::id("ISSUER").only_wide(),
            Column::text("TAGS").only_wide(),
        ]);
        for claims in &self.claims {
            let contracts = if claims.is_provider() {
                claims.contract_id.clone()
            } else {
                claims.capabilities.join(",")
            };
            table.row([
                Cell::toned(&claims.name, Tone::Strong),
                Cell::from(&claims.version),
                Cell::from(&claims.revision),
                Cell::from(contracts),
                Cell::from(&claims.call_alias),
                expires(self.expires.get(&claims.subject)),
                Cell::from(&claims.subject),
                Cell::from(&claims.issuer),
                Cell::from(claims.tags.join(",")),
            ]);
        }
        page.table(&table, "no claims: nothing has ever run in this lattice");
    }

    fn names(&self) -> Vec<String> {
        self.claims.iter().map(|claims| claims.subject.clone()).collect()
    }
}

/// When claims expire; hosts tell it of what runs.
fn expires(at: Option<&u64>) -> Cell {
    let Some(at) = at else { return Cell::from("-") };
    let now = clock::now_ms() / 1000;
    let text = match at.checked_sub(now) {
        Some(left) => format!("in {}", expiry::span(left)),
        None => format!("{} ago", expiry::span(now - at)),
    };
    match expiry::expiring("", *at, now) {
        Some(expiring) if expiring.is_over => Cell::toned(text, Tone::Bad),
        Some(_) => Cell::toned(text, Tone::Warning),
        None => Cell::from(text),
    }
}
