//! The cost that a host adds to a call of its guest: limits, and then the router with its checks,
//! permits and counts.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use lattice_engine::actors::measure::{Bare, BareInstance, Bounded, Kept};

use super::{
    Options,
    calls::Routed,
    guests::{Actor, Guest},
    load::Target,
    row::{Group, Row, each},
    stage::Stage,
};

const BARE_FRESH: &str = "wasmtime alone, fresh instance";
const BARE_REUSED: &str = "wasmtime alone, instances reused";

/// The call of a guest without a host.
#[derive(Clone, Debug)]
struct Request {
    operation: &'static str,
    payload: Bytes,
}

/// Makes each call in a new instance of bare wasmtime.
#[derive(Clone)]
struct BareFresh {
    bare: Arc<Bare>,
    request: Request,
}

impl Target for BareFresh {
    async fn exchange(&mut self) -> Result<()> {
        let Request { operation, payload } = &self.request;
        self.bare.instance()?.call(operation, payload)?;
        Ok(())
    }
}

/// Makes all calls of a caller in one instance.
struct BareReused {
    bare: Arc<Bare>,
    request: Request,
    instance: Option<BareInstance>,
}

impl Clone for BareReused {
    fn clone(&self) -> Self {
        Self { bare: Arc::clone(&self.bare), request: self.request.clone(), instance: None }
    }
}

impl Target for BareReused {
    async fn prepare(&mut self) -> Result<()> {
        self.instance = Some(self.bare.instance()?);
        Ok(())
    }

    async fn exchange(&mut self) -> Result<()> {
        let instance = self.instance.as_mut().ok_or_else(|| anyhow!("there is no instance"))?;
        instance.call(self.request.operation, &self.request.payload)?;
        Ok(())
    }
}

/// Makes calls within the limits of an actor.
struct WithLimits {
    bounded: Arc<Bounded>,
    request: Request,
    is_reused: bool,
    kept: Kept,
}

impl Clone for WithLimits {
    fn clone(&self) -> Self {
        Self {
            bounded: Arc::clone(&self.bounded),
            request: self.request.clone(),
            is_reused: self.is_reused,
            kept: Kept::default(),
        }
    }
}

impl Target for WithLimits {
    async fn exchange(&mut self) -> Result<()> {
        let Request { operation, payload } = &self.request;
        let kept = std::mem::take(&mut self.kept);
        let (_, kept) = self.bounded.call(kept, operation, payload).await?;
        if self.is_reused {
            self.kept = kept;
        }
        Ok(())
    }
}

/// The rows; a component has only those through the router.
pub fn rows(options: &Options, stage: &Stage, notes: &mut Vec<String>) -> Result<Vec<Row>> {
    let mut concurrency = vec![1, options.callers_max()];
    concurrency.dedup();
    let guest = &stage.guests.actor;
    let mut rows = Vec::new();
    if guest.is_component {
        notes.push(
            "The rows of wasmtime alone are missing: the actor is a component, which they cannot call.".into(),
        );
    } else {
        rows.extend(alone(guest, &concurrency, stage)?);
    }
    let beside = |name| (!guest.is_component).then_some(name);
    for (name, actor, bare) in [
        ("router, fresh instance", &stage.local.fresh, BARE_FRESH),
        ("router, instances reused", &stage.local.reused, BARE_REUSED),
    ] {
        let mut routed = routed(guest, actor, &concurrency, stage, name);
        routed.iter_mut().for_each(|row| row.beside = beside(bare));
        rows.extend(routed);
    }
    Ok(rows)
}

fn routed(
    guest: &Guest,
    actor: &Actor,
    concurrency: &[usize],
    stage: &Stage,
    name: &str,
) -> Vec<Row> {
    each(Group::Guest, name, concurrency, &Routed::new(stage, guest, actor))
}

/// The guest without a host.
fn alone(guest: &Guest, concurrency: &[usize], stage: &Stage) -> Result<Vec<Row>> {
    let callers = concurrency.iter().copied().max().unwrap_or(1);
    // One more for each, since an instance may begin while another ends.
    let instances = u32::try_from(callers * 2).unwrap_or(u32::MAX);
    let bare = Arc::new(Bare::new(&guest.wasm, instances)?);
    let cache = stage.server.dir_of("compiled")?;
    let bounded = Arc::new(Bounded::new(&guest.wasm, instances, Some(cache))?);
    let request = Request { operation: guest.operation, payload: guest.payload.clone() };
    let limits = |is_reused| WithLimits {
        bounded: Arc::clone(&bounded),
        request: request.clone(),
        is_reused,
        kept: Kept::default(),
    };
    let fresh = BareFresh { bare: Arc::clone(&bare), request: request.clone() };
    let reused = BareReused { bare, request: request.clone(), instance: None };
    let mut rows = each(Group::Guest, BARE_FRESH, concurrency, &fresh);
    rows.extend(each(Group::Guest, BARE_REUSED, concurrency, &reused));
    for (name, is_reused, beside) in [
        ("with limits, fresh instance", false, BARE_FRESH),
        ("with limits, instances reused", true, BARE_REUSED),
    ] {
        let limited = each(Group::Guest, name, concurrency, &limits(is_reused));
        rows.extend(limited.into_iter().map(|row| row.beside(beside)));
    }
    Ok(rows)
}
