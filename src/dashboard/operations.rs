//! Changes that somebody set off on the dashboard: each runs in a task of its own and tells how far
//! it is.
//!
//! An operation begins at once and is answered with its number; streams hear of each of its stages
//! and of its end, and the last [`KEPT`] can be read again. Each has a deadline of its own (see
//! [`client::commands`](lattice_client::commands)); what is unknown at its end is told as that.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, info_span};
use utoipa::ToSchema;

use super::{
    mask::{HIDDEN, Mask, hide},
    model::Model,
};
use lattice_client::{lattice::RequestError, links, origin};
use lattice_protocol::{clock, errors::OutcomeUnknown, events::Step};

/// Operations that can be read again.
const KEPT: usize = 200;
/// Operations that may run at a time.
const RUNNING_MAX: usize = 64;
/// Stages that are kept of one operation.
const STAGES_MAX: usize = 16;
/// How often the bytes of a stage are told.
const TOLD: Duration = Duration::from_millis(100);
/// Nothing takes longer; each has a deadline of its own below this.
const DEADLINE: Duration = Duration::from_secs(300);

/// How an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    Running,
    Done,
    Failed,
    /// The time was over before anybody told.
    Unknown,
}

/// A step on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stage {
    /// `auction`, `command`, `pull`, `verify`, `compile`, `unpack`, `start`, `wait`, `deploy` or
    /// `settle`.
    pub name: String,
    pub detail: String,
    /// How much of how much; 0 of 0 if that is not counted.
    pub bytes: u64,
    pub of: u64,
    pub at_ms: u64,
}

/// A change, and what became of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Operation {
    pub id: String,
    /// `start_actor`, `start_provider`, `scale_actor`, `update_actor`, `stop_actor`,
    /// `stop_provider`, `put_link`, `delete_link`, `undo_link`, `put_label`, `delete_label`,
    /// `stop_host`, `drain`, `undrain`, `start_elsewhere`, `forget_host`, `apply`, `deploy`,
    /// `undeploy`, `delete_application` or `rollout`.
    pub kind: &'static str,
    pub title: String,
    pub state: Progress,
    pub stages: Vec<Stage>,
    /// How it ended.
    pub text: Option<String>,
    /// Empty until a host was chosen.
    pub host_id: String,
    /// The actor or the provider, if it is known.
    pub target_id: String,
    pub link_name: String,
    /// The contract of the link that it changes; empty if it changes none.
    pub contract_id: String,
    /// It has changed a link, whether the provider takes that on or not.
    pub can_undo: bool,
    pub began_ms: u64,
    pub ended_ms: Option<u64>,
}

impl Mask for Operation {
    fn mask(&mut self) {
        // Why something failed may quote anything.
        if self.state != Progress::Done {
            hide(&mut self.text);
        }
        self.stages
            .iter_mut()
            .filter(|stage| !stage.detail.is_empty())
            .for_each(|stage| HIDDEN.clone_into(&mut stage.detail));
    }
}

/// The operations of this host's dashboard. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    model: Model,
    all: Arc<Mutex<VecDeque<Operation>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Too many run.
#[derive(Debug, thiserror::Error)]
#[error("{RUNNING_MAX} operations run already; wait until one has ended")]
pub struct Busy;

/// An operation in work: where it tells how far it is.
#[derive(Clone)]
pub struct OperationHandle {
    id: Arc<str>,
    operations: Operations,
}

/// How an operation ended well.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub text: String,
    pub target_id: String,
}

impl Operations {
    pub fn new(model: Model, stop: CancellationToken) -> Self {
        Self { model, all: Arc::default(), tasks: TaskTracker::new(), stop }
    }

    /// Newest first.
    pub fn list(&self) -> Vec<Operation> {
        self.all.lock().iter().rev().cloned().collect()
    }

    /// Begins an operation, and returns it as it is then.
    pub fn begin<F>(
        &self,
        new: NewOperation<'_>,
        work: impl FnOnce(OperationHandle) -> F,
    ) -> Result<Operation, Busy>
    where
        F: Future<Output = anyhow::Result<End>> + Send + 'static,
    {
        if self.tasks.len() >= RUNNING_MAX {
            return Err(Busy);
        }
        let operation = Operation {
            id: uuid::Uuid::new_v4().simple().to_string(),
            kind: new.kind,
            title: new.title,
            state: Progress::Running,
            stages: Vec::new(),
            text: None,
            host_id: new.host_id.to_owned(),
            target_id: new.target_id.to_owned(),
            link_name: new.link_name.to_owned(),
            contract_id: new.contract_id.to_owned(),
            can_undo: false,
            began_ms: clock::now_ms(),
            ended_ms: None,
        };
        self.keep(operation.clone());
        self.model.tell_masked("operation", &operation);
        let handle = OperationHandle { id: operation.id.as_str().into(), operations: self.clone() };
        let work = work(handle.clone());
        let (stop, kind) = (self.stop.clone(), new.kind);
        let task = async move { handle.end(outcome(work, &stop).await) };
        // An operation goes on in the name of whoever asked for it.
        let origin = origin::current();
        let task = async move {
            match origin {
                Some(origin) => origin::scope(origin, task).await,
                None => task.await,
            }
        };
        self.tasks.spawn(task.instrument(info_span!("operation", kind)));
        Ok(operation)
    }

    /// Makes room by forgetting the oldest that has ended: those that run are still told about.
    fn keep(&self, operation: Operation) {
        let mut all = self.all.lock();
        if all.len() >= KEPT
            && let Some(ended) =
                all.iter().position(|operation| operation.state != Progress::Running)
        {
            all.remove(ended);
        }
        all.push_back(operation);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Operation) -> bool) {
        let changed = {
            let mut all = self.all.lock();
            // The last ones are the ones in work.
            let Some(operation) = all.iter_mut().rev().find(|operation| operation.id == id) else {
                return;
            };
            if change(operation) { Some(operation.clone()) } else { None }
        };
        if let Some(operation) = changed {
            self.model.tell_masked("operation", &operation);
        }
    }
}

/// Waits for the end of an operation, whatever that is.
async fn outcome(
    work: impl Future<Output = anyhow::Result<End>>,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let work = AssertUnwindSafe(work).catch_unwind();
    let unknown = tokio::select! {
        ended = tokio::time::timeout(DEADLINE, work) => match ended {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(_)) => "the operation panicked, which is a bug of the host".to_owned(),
            Err(_) => format!("no end within {} s", DEADLINE.as_secs()),
        },
        () = stop.cancelled() => "the host of this dashboard stopped before the end was known".to_owned(),
    };
    Err(OutcomeUnknown(unknown).into())
}

/// The facts known of an operation when it begins.
#[derive(Clone, Debug, Default)]
pub struct NewOperation<'a> {
    pub kind: &'static str,
    pub title: String,
    pub host_id: &'a str,
    pub target_id: &'a str,
    pub link_name: &'a str,
    pub contract_id: &'a str,
}

impl OperationHandle {
    /// A stage begins.
    pub fn stage(&self, name: &str, detail: impl Into<String>) {
        self.at(name, detail.into(), 0, 0);
    }

    /// Does something that nobody waits for, once the operation has been told its end.
    pub fn spawn_background(&self, favour: impl Future<Output = ()> + Send + 'static) {
        let stop = self.operations.stop.clone();
        self.operations.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = favour => {}
            }
        });
    }

    /// A host was chosen.
    pub fn on_host(&self, host_id: &str) {
        self.operations.change(&self.id, |operation| {
            host_id.clone_into(&mut operation.host_id);
            true
        });
    }

    /// Notes a step that a host reports.
    pub fn step(&self, step: &Step) {
        self.at(&step.stage, String::new(), step.bytes, step.of);
    }

    fn at(&self, name: &str, detail: String, bytes: u64, of: u64) {
        self.operations.change(&self.id, |operation| {
            let now = clock::now_ms();
            match operation.stages.last_mut().filter(|stage| stage.name == name) {
                Some(stage) => {
                    // Bytes come faster than anybody reads.
                    let is_due = now.saturating_sub(stage.at_ms) >= clock::millis(TOLD);
                    (stage.bytes, stage.of) = (bytes, of);
                    let is_due = is_due || (!detail.is_empty() && stage.detail != detail);
                    if !detail.is_empty() {
                        stage.detail = detail;
                    }
                    if is_due {
                        stage.at_ms = now;
                    }
                    is_due
                }
                None => {
                    if operation.stages.len() >= STAGES_MAX {
                        operation.stages.remove(0);
                    }
                    operation.stages.push(Stage {
                        name: name.to_owned(),
                        detail,
                        bytes,
                        of,
                        at_ms: now,
                    });
                    true
                }
            }
        });
    }

    fn end(&self, outcome: anyhow::Result<End>) {
        let model = &self.operations.model;
        self.operations.change(&self.id, |operation| {
            if !operation.host_id.is_empty() {
                model.invalidate(&operation.host_id);
            }
            operation.ended_ms = Some(clock::now_ms());
            operation.can_undo = !operation.contract_id.is_empty() && is_stored(&outcome);
            match outcome {
                Ok(end) => {
                    operation.state = Progress::Done;
                    operation.text = Some(end.text);
                    if !end.target_id.is_empty() {
                        operation.target_id = end.target_id;
                    }
                }
                Err(error) => {
                    let is_unknown = error.chain().any(may_be_done);
                    operation.state = if is_unknown { Progress::Unknown } else { Progress::Failed };
                    operation.text = Some(format!("{error:#}"));
                }
            }
            true
        });
    }
}

/// Whether the change of a link is in force, or at least stored.
fn is_stored(outcome: &anyhow::Result<End>) -> bool {
    outcome.as_ref().err().is_none_or(|error| error.is::<links::Refused>())
}

/// Whether an error says that nobody knows what came of it.
pub fn may_be_done(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<OutcomeUnknown>()
        || matches!(cause.downcast_ref(), Some(RequestError::TimedOut { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Operations {
        Operations::new(Model::new("N"), CancellationToken::new())
    }

    async fn ended(operations: &Operations, id: &str) -> Operation {
        operations.tasks.close();
        operations.tasks.wait().await;
        operations.list().into_iter().find(|operation| operation.id == id).unwrap()
    }

    #[tokio::test]
    async fn an_operation_tells_its_stages_and_its_end() {
        let operations = operations();
        let mut view = operations.model.view();
        let begun = NewOperation {
            kind: "start_actor",
            title: "Start x".into(),
            ..NewOperation::default()
        };
        let work = |work: OperationHandle| async move {
            work.stage("auction", "");
            work.on_host("N1");
            work.stage("pull", "");
            work.step(&Step { stage: "pull".into(), bytes: 5, of: 10, ..Step::default() });
            Ok(End { text: "started".into(), target_id: "MA".into() })
        };
        let begun = operations.begin(begun, work).unwrap();
        assert_eq!((begun.state, begun.stages.len()), (Progress::Running, 0));
        let end = ended(&operations, &begun.id).await;
        assert_eq!(
            (end.state, end.text.as_deref(), &*end.target_id),
            (Progress::Done, Some("started"), "MA")
        );
        let stages: Vec<_> = end.stages.iter().map(|stage| (&*stage.name, stage.bytes)).collect();
        assert_eq!((stages.as_slice(), &*end.host_id), (&[("auction", 0), ("pull", 5)][..], "N1"));
        let mut heard = 0;
        while view.news.try_recv().is_ok() {
            heard += 1;
        }
        assert!(heard >= 4, "{heard}");
    }

    #[tokio::test]
    async fn a_failure_is_told_from_an_end_nobody_knows() {
        let operations = operations();
        let failed = operations
            .begin(NewOperation::default(), |_| async { anyhow::bail!("no such image") })
            .unwrap();
        let unknown = operations
            .begin(NewOperation::default(), |_| async { Err(OutcomeUnknown("late".into()).into()) })
            .unwrap();
        assert_eq!(ended(&operations, &failed.id).await.state, Progress::Failed);
        assert_eq!(ended(&operations, &unknown.id).await.state, Progress::Unknown);
    }

    #[tokio::test]
    async fn so_many_run_and_no_more() {
        let operations = operations();
        for _ in 0..RUNNING_MAX {
            operations.begin(NewOperation::default(), |_| std::future::pending()).unwrap();
        }
        assert!(operations.begin(NewOperation::default(), |_| std::future::pending()).is_err());
        operations.stop.cancel();
        operations.tasks.close();
        operations.tasks.wait().await;
        assert!(operations.list().iter().all(|operation| operation.state == Progress::Unknown));
    }
}
