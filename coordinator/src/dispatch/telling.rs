//! What is told of a phase while it goes on: progress, the run's journal, metrics.

use gleaner_schemas::{PhasePlan, PlanId, Task, metric};

use super::Dispatcher;
use super::work::{Work, sum};
use crate::journal::{PhaseStarted, rfc3339};
use crate::ledger::Ledger;
use crate::observation::Observation;

impl Dispatcher<'_> {
    /// A phase was found complete: what it needs is told to those who tidy up.
    pub async fn reused(&self, plan: &PhasePlan, plan_id: &PlanId) {
        self.progress.observe(&Observation::PhaseReused { plan });
        self.journal_phase(plan, plan_id, plan.n_tasks).await;
    }

    /// The phase begins with what is there already: tasks, their rows and bytes.
    pub(super) async fn phase_started(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        (n_reused, (rows, bytes)): (u64, (u64, u64)),
    ) {
        self.progress.phase_started(
            &plan.stage,
            &plan.phase,
            plan.n_tasks,
            plan.n_rows,
            plan.bytes,
        );
        self.progress.observe(&Observation::Reused {
            n_tasks: n_reused,
            work: Work {
                rows,
                bytes,
                ..Work::default()
            },
        });
        self.progress.found(n_reused, rows, bytes);
        self.journal_phase(plan, plan_id, n_reused).await;
    }

    async fn journal_phase(&self, plan: &PhasePlan, plan_id: &PlanId, n_reused: u64) {
        self.journal
            .phase_started(&PhaseStarted {
                stage: plan.stage.clone(),
                phase: plan.phase.clone(),
                plan: plan_id.clone(),
                folder: plan.folder.clone(),
                n_tasks: plan.n_tasks,
                n_reused,
                n_rows: plan.n_rows,
                bytes: plan.bytes,
                started_at: rfc3339(chrono::Utc::now()),
            })
            .await;
    }

    pub(super) fn advance(&self, tasks: &[Task], news: &[usize]) {
        let (rows, bytes) = sum(tasks, news);
        self.progress.advanced(news.len() as u64, rows, bytes);
    }

    /// Tells how far the phase is.
    pub(super) fn measure(&self, plan: &PhasePlan, tasks: &[Task], ledger: &Ledger) {
        self.progress.observe(&Observation::Tasks { tasks, ledger });
        let counts = ledger.counts();
        for (state, n_tasks) in [
            ("waiting", counts.waiting),
            ("offered", counts.offered),
            ("done", counts.done),
            ("quarantined", counts.quarantined),
        ] {
            let labels = [
                ("stage", plan.stage.clone()),
                ("phase", plan.phase.clone()),
                ("state", state.to_owned()),
            ];
            metrics::gauge!(metric::TASKS, &labels).set(n_tasks as f64);
        }
    }
}
