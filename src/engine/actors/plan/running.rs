//! One running actor: its module, its groups, and a newer revision beside it. Pure.
//!
//! It changes as the plan says, and tells each change in the form in which it is carried out.

use std::sync::Arc;

use super::{
    Module,
    effect::{Change, TrialChange, Update},
    groups::{Groups, Scaled},
};
use crate::actors::{supervisor::ActorView, trial::TrialView};
use lattice_protocol::{events::event::Annotations, identity::keys::ActorId};

/// An actor of this host. A newer revision beside it changes nothing about it: its module and its
/// reference stay those of before until an update.
pub struct Running<M> {
    pub module: M,
    pub reference: String,
    pub groups: Groups,
    /// A newer revision that takes a share of the calls.
    pub trial: Option<Newer<M>>,
}

/// A newer revision of a running actor.
pub struct Newer<M> {
    pub module: M,
    pub view: TrialView,
}

impl<M: Module> Running<M> {
    /// Takes all groups away.
    pub fn end(&mut self) -> Vec<Change<M>> {
        let taken = self.groups.take(&Annotations::new(), None);
        self.changes(taken)
    }

    pub fn changes(&self, scaled: Vec<Scaled>) -> Vec<Change<M>> {
        scaled.into_iter().map(|scaled| self.change(scaled)).collect()
    }

    pub fn change(&self, Scaled { annotations, before, after }: Scaled) -> Change<M> {
        let (module, reference) = (self.module.clone(), self.reference.clone());
        Change { module, reference, annotations, before, after }
    }

    /// Says whether a reference names this actor: its own does, and that of a newer revision
    /// beside it.
    pub fn is_from(&self, reference: &str) -> bool {
        self.reference == reference
            || self.trial.as_ref().is_some_and(|newer| newer.view.reference == reference)
    }

    /// Returns the modules that run.
    pub fn modules(&self) -> impl Iterator<Item = &M> {
        std::iter::once(&self.module).chain(self.trial.iter().map(|newer| &newer.module))
    }

    /// Gives it another module.
    pub fn exchange(&mut self, reference: String, module: M) -> Update<M> {
        self.trial = None;
        Update {
            id: module.claims().subject.clone(),
            old_module: std::mem::replace(&mut self.module, module.clone()),
            old_reference: std::mem::replace(&mut self.reference, reference.clone()),
            module,
            reference,
            groups: self.groups.views().to_vec(),
            limits: self.groups.limits(),
        }
    }

    /// Runs a module beside its own.
    pub fn try_beside(&mut self, reference: String, module: M, share: u8) -> TrialChange<M> {
        let claims = module.claims();
        let (id, revision) = (claims.subject.clone(), claims.revision.unwrap_or(0));
        let (view_of, counts) = (reference.clone(), Arc::default());
        let view = TrialView { reference: view_of, revision, share, counts };
        self.trial = Some(Newer { module: module.clone(), view: view.clone() });
        let groups = self.groups.views().to_vec();
        TrialChange { id, module, reference, view: Some(view), groups }
    }

    /// Runs its own module alone again; returns nothing if it does.
    pub fn end_trial(&mut self) -> Option<TrialChange<M>> {
        self.trial.take()?;
        let (module, reference) = (self.module.clone(), self.reference.clone());
        let (id, groups) = (module.claims().subject.clone(), self.groups.views().to_vec());
        Some(TrialChange { id, module, reference, view: None, groups })
    }

    /// Returns how it looks from outside.
    pub fn view(&self, id: &ActorId) -> ActorView {
        let claims = self.module.claims();
        ActorView {
            id: id.clone(),
            name: claims.name.clone(),
            reference: self.reference.clone(),
            revision: claims.revision.unwrap_or(0),
            code: self.module.info().clone(),
            groups: self.groups.views().to_vec(),
            trial: self.trial.as_ref().map(|newer| newer.view.clone()),
        }
    }
}
