//! An overlay as it is rendered, and the pods within it.

use serde_json::{Map, Value};

use crate::{read, yaml};

/// The documents of an overlay.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// Its folder.
    pub name: String,
    /// What would be applied.
    pub documents: Vec<Value>,
}

/// A document that makes pods.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// The document.
    pub document: &'a Value,
    /// The template of its pods.
    pub template: &'a Value,
    /// The specification of its Job, if it makes Jobs.
    pub job: Option<&'a Value>,
}

/// Who a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// `gleaner run`.
    Coordinator,
    /// `gleaner-worker`.
    Worker,
    /// A broker or a store, for trials.
    Other,
}

impl Overlay {
    /// An overlay as it was rendered last.
    ///
    /// # Panics
    ///
    /// If its rendering cannot be read.
    #[must_use]
    pub fn rendered(name: &str) -> Self {
        let text = read(&format!("tests/deploy/rendered/{name}.yaml"));
        Self::parse(name, &text).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// An overlay out of a rendering.
    ///
    /// # Errors
    ///
    /// If that is no YAML.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            documents: yaml::documents(text)?,
        })
    }

    /// The documents of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let documents = self.documents.iter();
        documents.filter(move |document| document["kind"] == kind)
    }

    /// A document by kind and name.
    #[must_use]
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        let is_it = |it: &&Value| it["kind"] == kind && it["metadata"]["name"] == name;
        self.documents.iter().find(is_it)
    }

    /// Whatever makes pods.
    #[must_use]
    pub fn workloads(&self) -> Vec<Workload<'_>> {
        let workload = |document| {
            let job_at = match kind(document) {
                "Job" => "/spec",
                "CronJob" => "/spec/jobTemplate/spec",
                "ScaledJob" => "/spec/jobTargetRef",
                _ => "",
            };
            let job = Some(job_at)
                .filter(|at| !at.is_empty())
                .and_then(|at| document.pointer(at));
            let template = match job {
                Some(job) => job.get("template"),
                None => document.pointer("/spec/template"),
            };
            Some(Workload {
                document,
                template: template?,
                job,
            })
        };
        self.documents.iter().filter_map(workload).collect()
    }

    /// Those of our programs.
    #[must_use]
    pub fn ours(&self) -> Vec<Workload<'_>> {
        let mut ours = self.workloads();
        ours.retain(|it| it.component() != Component::Other);
        ours
    }

    /// The data of the ConfigMap of that name.
    #[must_use]
    pub fn settings(&self, name: &str) -> Map<String, Value> {
        let map = self.find("ConfigMap", name);
        let data = map.and_then(|map| map["data"].as_object());
        data.cloned().unwrap_or_default()
    }
}

impl<'a> Workload<'a> {
    /// `Job/gleaner-run`.
    #[must_use]
    pub fn name(&self) -> String {
        name(self.document)
    }

    /// The specification of its pods.
    #[must_use]
    pub fn pod(&self) -> &'a Value {
        &self.template["spec"]
    }

    /// Its containers, the initial ones first.
    #[must_use]
    pub fn containers(&self) -> Vec<&'a Value> {
        let lists = ["initContainers", "containers"].map(|list| &self.pod()[list]);
        lists.into_iter().flat_map(items).collect()
    }

    /// The container of the program.
    #[must_use]
    pub fn container(&self) -> &'a Value {
        &self.pod()["containers"][0]
    }

    /// Who it is, by its label.
    #[must_use]
    pub fn component(&self) -> Component {
        let labels = &self.template["metadata"]["labels"];
        match labels["app.kubernetes.io/component"].as_str() {
            Some("coordinator") => Component::Coordinator,
            Some("worker") => Component::Worker,
            _ => Component::Other,
        }
    }

    /// Its options as names and values: `--slots=4` is `("slots", "4")`.
    #[must_use]
    pub fn options(&self) -> Vec<(&'a str, &'a str)> {
        let options = items(&self.container()["args"]).filter_map(|it| it.as_str());
        options
            .filter_map(|it| it.strip_prefix("--"))
            .map(|it| it.split_once('=').unwrap_or((it, "")))
            .collect()
    }

    /// The value of an option.
    #[must_use]
    pub fn option(&self, option: &str) -> Option<&'a str> {
        let mut options = self.options().into_iter();
        options.find_map(|(name, value)| (name == option).then_some(value))
    }
}

/// `Job/gleaner-run`.
#[must_use]
pub fn name(document: &Value) -> String {
    let name = document["metadata"]["name"].as_str().unwrap_or("?");
    format!("{}/{name}", kind(document))
}

/// The kind of a document.
#[must_use]
pub fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or("?")
}

/// The items of a list; none if it is no list.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The entries of a mapping; none if it is none.
pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
