//! Images are named as they are built, each with a version.

use std::collections::BTreeSet;

use crate::overlay::{Component, Overlay};
use crate::sources::Facts;

/// The tag of images that are built where they run.
const BUILT_HERE: &str = "local";

pub(super) fn findings(overlay: &Overlay, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut tags = BTreeSet::new();
    for workload in overlay.workloads() {
        let is_ours = workload.component() != Component::Other;
        let mut say = |finding: String| found.push(format!("{}: {finding}", workload.name()));
        for container in workload.containers() {
            let image = container["image"].as_str().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let Some((name, tag)) = last.split_once(':') else {
                say(format!("the image {image} has no tag"));
                continue;
            };
            if tag == "latest" {
                say(format!("the image {image} is another one tomorrow"));
            }
            if !is_ours {
                continue;
            }
            tags.insert(tag.to_owned());
            let expect = match workload.option("resources") {
                Some("accelerator") => "gleaner-cuda",
                _ => "gleaner",
            };
            if name != expect {
                say(format!("the image is {name}, not {expect}"));
            }
            if tag != BUILT_HERE && tag != facts.version {
                say(format!(
                    "the image is of version {tag}, and this is {}",
                    facts.version
                ));
            }
        }
    }
    if tags.len() > 1 {
        found.push(format!(
            "coordinator and workers are of several versions: {tags:?}"
        ));
    }
    found
}
