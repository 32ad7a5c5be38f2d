//! Pods say what they need, and what they may write fits into that.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::batch::job_file;
use crate::overlay::{Component, Overlay, Workload, items};
use crate::sources::Facts;

/// What a program needs besides its slots.
const OVERHEAD: u64 = 512 << 20;
/// Where the copies of models go, and temporary files.
const WRITTEN: [&str; 2] = ["/cache", "/tmp"];

pub(super) fn findings(overlay: &Overlay, _: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let slot = job_file(overlay)
        .map(|job| job.file.memory.bytes())
        .unwrap_or_default();
    let cache = overlay
        .settings("gleaner-settings")
        .get("GLEANER_CACHE")
        .cloned();
    if cache != Some(json!(WRITTEN[0])) {
        found.push(format!(
            "ConfigMap/gleaner-settings: GLEANER_CACHE is not {}",
            WRITTEN[0]
        ));
    }
    for workload in overlay.workloads() {
        let name = workload.name();
        let mut say = |finding: String| found.push(format!("{name}: {finding}"));
        for volume in items(&workload.pod()["volumes"]) {
            if volume
                .get("emptyDir")
                .is_some_and(|it| quantity(&it["sizeLimit"]).is_none())
            {
                say(format!("the volume {} has no sizeLimit", volume["name"]));
            }
        }
        for container in workload.containers() {
            let resources = &container["resources"];
            for at in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                if resources.pointer(at).is_none() {
                    say(format!("resources{at} is missing"));
                }
            }
        }
        match workload.component() {
            Component::Other => continue,
            Component::Coordinator => {
                memory(&workload, slot, &mut say);
            }
            Component::Worker => {
                let slots = workload
                    .option("slots")
                    .and_then(|it| it.parse::<u64>().ok());
                match slots {
                    Some(slots) => memory(&workload, slots * slot, &mut say),
                    None => say("--slots is missing: it would be the cores of the node".to_owned()),
                }
                accelerator(&workload, &mut say);
            }
        }
        storage(&workload, &mut say);
    }
    found
}

fn memory(workload: &Workload<'_>, needed: u64, say: &mut dyn FnMut(String)) {
    let limit = &workload.container()["resources"]["limits"]["memory"];
    if quantity(limit).unwrap_or_default() < needed + OVERHEAD {
        say(format!(
            "{limit} of memory are less than its slots and the program take: {}",
            needed + OVERHEAD
        ));
    }
}

fn storage(workload: &Workload<'_>, say: &mut dyn FnMut(String)) {
    let container = workload.container();
    let mounts: BTreeMap<&str, &Value> = items(&container["volumeMounts"])
        .filter_map(|it| Some((it["mountPath"].as_str()?, &it["name"])))
        .collect();
    for path in WRITTEN {
        if !mounts.contains_key(path) {
            say(format!(
                "nothing is mounted at {path}, and the root is read-only"
            ));
        }
    }
    let volumes = items(&workload.pod()["volumes"]);
    let volumes = volumes.filter_map(|it| quantity(&it["emptyDir"]["sizeLimit"]));
    let resources = &container["resources"];
    let limit = quantity(&resources["limits"]["ephemeral-storage"]);
    if resources["requests"]["ephemeral-storage"].is_null() || limit < Some(volumes.sum()) {
        say("ephemeral-storage is missing, or less than its volumes may take".to_owned());
    }
}

fn accelerator(workload: &Workload<'_>, say: &mut dyn FnMut(String)) {
    let has_device = !workload.container()["resources"]["limits"]["nvidia.com/gpu"].is_null();
    let needs_device = workload.option("resources") == Some("accelerator");
    if has_device != needs_device {
        say("a GPU is for workers with --resources=accelerator, and for those only".to_owned());
    }
    let tolerates = items(&workload.pod()["tolerations"]).any(|it| it["key"] == "nvidia.com/gpu");
    if needs_device && !tolerates {
        say("nodes with GPUs are not tolerated".to_owned());
    }
}

/// Bytes of a quantity with a binary unit.
fn quantity(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    units.iter().find_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << shift)
    })
}
