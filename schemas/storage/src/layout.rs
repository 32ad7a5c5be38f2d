//! Where every object of an output lies. No other file builds or takes apart a path.
//!
//! ```text
//! OUTPUT/
//!   manifest.json                                          copy of the newest version
//!   README.md                                              copy of its dataset card
//!   <stage>/[<xx>/]<task id>-<attempt id>.parquet          rows of a stage
//!   <stage>/_delta_log/<version>.json                      commits of its Delta table
//!   <stage>_model/<id>-<attempt id>.parquet                further tables
//!   <stage>_model/<hash>/<file>                            a language model, as directory
//!   _gleaner/
//!     job.json                                             whose output this is
//!     versions/<N>.json                                    published versions
//!     cards/<N>.md                                         their dataset cards
//!     footers.json                                         what files of the corpus told of themselves
//!     plans/<stage>/<phase>/<plan id>/plan.json            plan of a map phase
//!     plans/<stage>/<phase>/<plan id>/tasks-<chunk>.json   its tasks
//!     manifests/<stage>/<phase>/<plan id>.json             its outcome
//!     manifests/<stage>/<phase>/<plan id>/<hash>.json      chunks of it, where it is large
//!     inner/<stage>/<phase>/[<xx>/]<task id>-<attempt id>.parquet
//!     checkpoints/<task id>                                how far a long computation is
//!     splits/<task id>.json                                smaller tasks in place of one
//!     reduces/<stage>/<phase>/<id>.json                    outcome of a reduce
//!     kept/<stage>/<phase>.parquet                         copies of a phase's objects, for later reduces
//!     kept/<stage>/<phase>.sums.parquet                    what they add up to
//!     endpoints/<N>.json                                   how endpoints are used now
//!     spending/<endpoint>/<N>.json                         what is reserved and spent there
//!     pace/<endpoint>/<window>/<N>.json                    what workers took of its rates
//!     clocks/<nonce>.json                                  put to learn the store's time, and removed
//!     requests/<xx>/<key>-<N>.json                         a request that was sent
//!     replies/<xx>/<key>.parquet                           its reply, as the server gave it
//!     failures/<run id>/<task id>-<nonce>.json             failed attempts of one run
//!     sweeps/<id>.json                                     `gleaner gc` removes objects now
//!     runs/<run id>/<event>.json                           journal of one run
//!     runs/<run id>/attempts/<worker>-<sequence>.jsonl     what workers tell about its attempts
//! ```

mod kept;

use gleaner_schemas::{AttemptId, ContentHash, Fingerprint, PinnedAttempt, PlanId, RunId, TaskId};

pub use kept::{
    CHECKPOINTS, FOOTERS, KEPT, checkpoint, copies, parse_checkpoint, parse_kept, sums,
};

/// Everything that is not a table lies below this folder.
pub const PRIVATE: &str = "_gleaner";
/// The copy of the newest version, for people and tools.
pub const MANIFEST: &str = "manifest.json";
/// Whose output this is.
pub const JOB: &str = "_gleaner/job.json";
/// Folder of the published versions.
pub const VERSIONS: &str = "_gleaner/versions";
/// Folder of what tells that objects are being removed.
pub const SWEEPS: &str = "_gleaner/sweeps";
/// Folder of the runs' journals.
pub const RUNS: &str = "_gleaner/runs";

/// Above this many tasks a phase's objects are spread over 256 folders by the first two digits
/// of the task id: stores partition by prefix, and a worker lists only its task's folder.
pub const TASKS_PER_FOLDER_MAX: u64 = 1000;

/// Key of a published version.
#[must_use]
pub fn version(number: u64) -> String {
    format!("{VERSIONS}/{number}.json")
}

/// Key of what tells that objects are being removed.
#[must_use]
pub fn sweep(id: u64) -> String {
    format!("{SWEEPS}/{id:016x}.json")
}

/// The number of the version that lies at `key`.
#[must_use]
pub fn parse_version(key: &str) -> Option<u64> {
    let name = key.strip_prefix(VERSIONS)?.strip_prefix('/')?;
    name.strip_suffix(".json")?.parse().ok()
}

/// The copy of the newest version's dataset card, where dataset hubs look for one.
pub const README: &str = "README.md";
/// Folder of the versions' dataset cards.
pub const CARDS: &str = "_gleaner/cards";

/// Key of the dataset card of a version.
#[must_use]
pub fn card(number: u64) -> String {
    format!("{CARDS}/{number}.md")
}

/// The number of the version whose dataset card lies at `key`.
#[must_use]
pub fn parse_card(key: &str) -> Option<u64> {
    let name = key.strip_prefix(CARDS)?.strip_prefix('/')?;
    name.strip_suffix(".md")?.parse().ok()
}

/// Folder of the objects of a stage's table, or of a further table.
#[must_use]
pub fn table_folder(table: &str) -> String {
    table.to_owned()
}

/// Part of a key that stands for the log of a Delta table, below the table's folder.
const DELTA_LOG: &str = "_delta_log";

/// Folder of the log of a Delta table.
#[must_use]
pub fn delta_log(table: &str) -> String {
    format!("{}/{DELTA_LOG}", table_folder(table))
}

/// Key of a commit of a Delta table, numbered from 0.
#[must_use]
pub fn delta_commit(table: &str, number: u64) -> String {
    format!("{}/{number:020}.json", delta_log(table))
}

/// Whether the object at `key` belongs to the log of a Delta table.
#[must_use]
pub fn is_in_delta_log(key: &str) -> bool {
    key.split('/').nth(1) == Some(DELTA_LOG)
}

/// The number of the commit of a Delta table that lies at `key`.
#[must_use]
pub fn parse_delta_commit(key: &str) -> Option<u64> {
    delta_number(delta_log_name(key)?.strip_suffix(".json")?)
}

/// The commit of a Delta table up to which the checkpoint at `key` goes, and the number of its
/// objects. Gleaner writes none; these are the two forms that any program may add to a table such as
/// its own.
#[must_use]
pub fn parse_delta_checkpoint(key: &str) -> Option<(u64, u32)> {
    let name = delta_log_name(key)?.strip_suffix(".parquet")?;
    let (number, rest) = name.split_once(".checkpoint")?;
    let n_parts = match rest.strip_prefix('.') {
        Some(part) => part.split_once('.')?.1.parse().ok()?,
        None if rest.is_empty() => 1,
        None => return None,
    };
    Some((delta_number(number)?, n_parts))
}

/// The name of an object right in the log of a Delta table.
fn delta_log_name(key: &str) -> Option<&str> {
    let mut parts = key.split('/').skip(1);
    let is_log = parts.next() == Some(DELTA_LOG);
    let name = parts.next().filter(|_| is_log)?;
    parts.next().is_none().then_some(name)
}

fn delta_number(digits: &str) -> Option<u64> {
    const N_DIGITS: usize = 20;
    let is_number = digits.len() == N_DIGITS && digits.bytes().all(|it| it.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Folder of the objects of an inner map phase.
#[must_use]
pub fn inner_folder(stage: &str, phase: &str) -> String {
    format!("{PRIVATE}/inner/{stage}/{phase}")
}

/// Folder of a plan.
#[must_use]
pub fn plan_folder(stage: &str, phase: &str, plan: &PlanId) -> String {
    format!("{PRIVATE}/plans/{stage}/{phase}/{plan}")
}

/// Key of a plan without its tasks.
#[must_use]
pub fn plan(stage: &str, phase: &str, plan: &PlanId) -> String {
    format!("{}/plan.json", plan_folder(stage, phase, plan))
}

/// Key of a chunk of a plan's tasks.
#[must_use]
pub fn plan_chunk(stage: &str, phase: &str, plan: &PlanId, chunk_idx: u64) -> String {
    format!(
        "{}/tasks-{chunk_idx:05}.json",
        plan_folder(stage, phase, plan)
    )
}

/// Folder of the manifests of all stages' phases.
pub const MANIFESTS: &str = "_gleaner/manifests/";

/// Folder of the manifests of a stage's phases.
#[must_use]
pub fn manifests(stage: &str) -> String {
    format!("{MANIFESTS}{stage}")
}

/// Key of the manifest of a complete map phase.
#[must_use]
pub fn phase_manifest(stage: &str, phase: &str, plan: &PlanId) -> String {
    format!("{PRIVATE}/manifests/{stage}/{phase}/{plan}.json")
}

/// Key of the manifest of a map phase some of whose tasks were quarantined. Its name depends on
/// its content: another run tries these tasks again and may do better.
#[must_use]
pub fn partial_manifest(stage: &str, phase: &str, plan: &PlanId, content: &Fingerprint) -> String {
    format!("{PRIVATE}/manifests/{stage}/{phase}/{plan}-partial-{content}.json")
}

/// Key of a chunk of the manifest that lies at `manifest`.
#[must_use]
pub fn manifest_chunk(manifest: &str, content: &ContentHash) -> String {
    let folder = manifest.strip_suffix(".json").unwrap_or(manifest);
    format!("{folder}/{content}.json")
}

/// The hash of the bytes of the chunk of a manifest that lies at `key`, if one does.
#[must_use]
pub fn parse_manifest_chunk(key: &str) -> Option<ContentHash> {
    let below = key.strip_prefix(PRIVATE)?.strip_prefix("/manifests/")?;
    let mut parts = below.split('/').skip(3);
    let content = parts.next()?.strip_suffix(".json")?.parse().ok()?;
    parts.next().is_none().then_some(content)
}

/// Key of a file of a language model that a stage trained. `model` is a hash of its files.
#[must_use]
pub fn model_file(stage: &str, model: &Fingerprint, name: &str) -> String {
    format!("{stage}_model/{model}/{name}")
}

/// Whether a file of a language model that a stage trained lies at `key`.
#[must_use]
pub fn is_model_file(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    let [folder, model, _] = parts[..] else {
        return false;
    };
    folder.ends_with("_model") && model.parse::<Fingerprint>().is_ok()
}

/// Whether an object is one of a stage: of its tables or models, of what its phases and reduces computed,
/// or of what is known of these. Objects of a stage whose name starts with this one's and `_` are taken
/// for its own.
#[must_use]
pub fn is_of_stage(key: &str, stage: &str) -> bool {
    let parts: Vec<&str> = key.splitn(4, '/').collect();
    match parts[..] {
        [
            PRIVATE,
            "inner" | "kept" | "manifests" | "plans" | "reduces",
            of,
            _,
        ] => of == stage,
        [PRIVATE, ..] => false,
        [table, _, ..] => {
            let further = table.strip_prefix(stage);
            further.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        }
        _ => false,
    }
}

/// Folder of the tasks that smaller ones took the place of.
pub const SPLITS: &str = "_gleaner/splits";

/// Key of the smaller tasks that took the place of a task.
#[must_use]
pub fn split(task: &TaskId) -> String {
    format!("{SPLITS}/{task}.json")
}

/// The task that was split, as the record at `key` tells.
#[must_use]
pub fn parse_split(key: &str) -> Option<TaskId> {
    let name = key.strip_prefix(SPLITS)?.strip_prefix('/')?;
    name.strip_suffix(".json")?.parse().ok()
}

/// Folder of the results of all reduces.
pub const REDUCES: &str = "_gleaner/reduces/";

/// Key of the result of a reduce.
#[must_use]
pub fn reduce(stage: &str, phase: &str, id: &Fingerprint) -> String {
    format!("{PRIVATE}/reduces/{stage}/{phase}/{id}.json")
}

/// Folder of the settings of endpoints.
pub const ENDPOINTS: &str = "_gleaner/endpoints";
/// Folder of what is spent at endpoints.
pub const SPENDING: &str = "_gleaner/spending";
/// Folder of what was taken of endpoints' rates.
pub const PACE: &str = "_gleaner/pace";
/// Folder of the requests that were sent.
pub const REQUESTS: &str = "_gleaner/requests";
/// Folder of what takes such notes back: their requests were not sent after all, or the server did
/// nothing for them.
pub const WITHDRAWN: &str = "_gleaner/withdrawn";
/// Folder of what is put to learn the time of the store, and removed again.
pub const CLOCKS: &str = "_gleaner/clocks";
/// Folder of the replies.
pub const REPLIES: &str = "_gleaner/replies";

/// Folder of what is spent at an endpoint. `endpoint` is a hash of its URL and model.
#[must_use]
pub fn spending(endpoint: &str) -> String {
    format!("{SPENDING}/{endpoint}")
}

/// Folder of what was taken of an endpoint's rates within a window of time.
#[must_use]
pub fn pace(endpoint: &str, window: u64) -> String {
    format!("{PACE}/{endpoint}/{window:012}")
}

/// Key of what is put to learn the time of the store.
#[must_use]
pub fn clock(nonce: u64) -> String {
    format!("{CLOCKS}/{nonce:016x}.json")
}

/// Key of an entry of a numbered list of objects ([`crate::numbered`]).
#[must_use]
pub fn numbered(folder: &str, number: u64) -> String {
    format!("{folder}/{number:08}.json")
}

/// The number of the entry that lies at `key`.
#[must_use]
pub fn parse_numbered(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?;
    name.strip_suffix(".json")?.parse().ok()
}

/// Key of the note that a request is sent, for the `number`th time. `request` is the hash of
/// everything that its answer depends on, in hexadecimal digits.
#[must_use]
pub fn request(request: &str, number: u32) -> String {
    let folder = request.get(..2).unwrap_or("00");
    format!("{REQUESTS}/{folder}/{request}-{number}.json")
}

/// Key of what takes the note of the `number`th sending back.
#[must_use]
pub fn withdrawn(request: &str, number: u32) -> String {
    let folder = request.get(..2).unwrap_or("00");
    format!("{WITHDRAWN}/{folder}/{request}-{number}.json")
}

/// Request and number of a note, from its key or from that of what takes it back.
#[must_use]
pub fn parse_sending(key: &str) -> Option<(&str, u32)> {
    let rest = key
        .strip_prefix(REQUESTS)
        .or_else(|| key.strip_prefix(WITHDRAWN))?;
    let name = rest.rsplit('/').next()?.strip_suffix(".json")?;
    let (request, number) = name.rsplit_once('-')?;
    Some((request, number.parse().ok()?))
}

/// Key of the reply to a request.
#[must_use]
pub fn reply(request: &str) -> String {
    let folder = request.get(..2).unwrap_or("00");
    format!("{REPLIES}/{folder}/{request}.parquet")
}

/// The request whose reply, or the note of whose sending, lies at `key`.
#[must_use]
pub fn parse_request(key: &str) -> Option<&str> {
    let rest = key
        .strip_prefix(REQUESTS)
        .or_else(|| key.strip_prefix(REPLIES))?;
    let name = rest.rsplit('/').next()?;
    name.split(['-', '.'])
        .next()
        .filter(|name| !name.is_empty())
}

/// Folder of the failed attempts of all runs.
pub const FAILURES: &str = "_gleaner/failures";

/// Folder of the failed attempts of a run.
#[must_use]
pub fn failures(run: &RunId) -> String {
    format!("{FAILURES}/{run}")
}

/// The run that wrote, or whose workers wrote, the journal entry or the failure at `key`.
#[must_use]
pub fn parse_run(key: &str) -> Option<RunId> {
    let rest = key
        .strip_prefix(RUNS)
        .or_else(|| key.strip_prefix(FAILURES))?;
    rest.strip_prefix('/')?.split('/').next()?.parse().ok()
}

/// Key of the record of a failed attempt.
#[must_use]
pub fn failure(run: &RunId, task: &TaskId, nonce: u32) -> String {
    format!("{}/{task}-{nonce:08x}.json", failures(run))
}

/// The task whose failure is recorded at `key`.
#[must_use]
pub fn parse_failure(key: &str) -> Option<TaskId> {
    let name = key.rsplit('/').next()?;
    name.split('-').next()?.parse().ok()
}

/// Key of an event in the journal of a run.
#[must_use]
pub fn run_event(run: &RunId, event: &str) -> String {
    format!("{RUNS}/{run}/{event}.json")
}

/// The event that a run has started; written before it looks at anything.
pub const RUN_STARTED: &str = "start";
/// The event that a run has ended; nothing is written after it.
pub const RUN_ENDED: &str = "end";

/// The run and the event whose journal entry lies at `key`.
#[must_use]
pub fn parse_run_event(key: &str) -> Option<(RunId, &str)> {
    let (run, event) = key.strip_prefix(RUNS)?.strip_prefix('/')?.split_once('/')?;
    let event = event.strip_suffix(".json")?;
    (!event.contains('/')).then_some((run.parse().ok()?, event))
}

/// Key of what a worker tells about attempts of a run. `worker` must be a single part of a path
/// that no other worker uses; `sequence` differs between its objects.
#[must_use]
pub fn attempt_records(run: &RunId, worker: &str, sequence: u64) -> String {
    format!("{RUNS}/{run}/attempts/{worker}-{sequence:06}.jsonl")
}

/// The run about whose attempts the object at `key` tells.
#[must_use]
pub fn parse_attempt_records(key: &str) -> Option<RunId> {
    let (run, name) = key.strip_prefix(RUNS)?.strip_prefix('/')?.split_once('/')?;
    let name = name.strip_prefix("attempts/")?.strip_suffix(".jsonl")?;
    (!name.contains('/')).then_some(run.parse().ok()?)
}

/// Folder in which the attempts of `task` lie, within the phase's folder.
#[must_use]
pub fn attempt_folder(folder: &str, task: &TaskId, n_tasks: u64) -> String {
    if n_tasks > TASKS_PER_FOLDER_MAX {
        format!("{folder}/{}", &task.to_string()[..2])
    } else {
        folder.to_owned()
    }
}

/// Key of the object of an attempt.
#[must_use]
pub fn attempt(folder: &str, task: &TaskId, attempt: &AttemptId, n_tasks: u64) -> String {
    attempt_in(&attempt_folder(folder, task, n_tasks), task, attempt)
}

/// Key of the object of an attempt that lies in this very folder.
#[must_use]
pub fn attempt_in(folder: &str, task: &TaskId, attempt: &AttemptId) -> String {
    format!("{folder}/{task}-{attempt}.parquet")
}

/// Folder of the object at `key`.
#[must_use]
pub fn folder_of(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Key of the object of the attempt that stands for a task.
#[must_use]
pub fn pinned(pinned: &PinnedAttempt) -> String {
    attempt_in(&pinned.folder, &pinned.task, &pinned.attempt)
}

/// The task and the attempt whose object lies at `key`, if it is one.
#[must_use]
pub fn parse_attempt(key: &str) -> Option<(TaskId, AttemptId)> {
    let name = key.rsplit('/').next()?.strip_suffix(".parquet")?;
    let (task, attempt) = name.split_once('-')?;
    Some((task.parse().ok()?, attempt.parse().ok()?))
}

#[cfg(test)]
mod tests;
