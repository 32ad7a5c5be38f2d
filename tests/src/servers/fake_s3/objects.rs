//! What the server answers while it behaves: objects, their parts, their lists.

use std::collections::BTreeSet;

use super::wire::{Answer, Request};
use super::{State, is_due};

/// Keys of a page of a listing: few, so that listings have several pages.
const PAGE_KEYS: usize = 20;

pub(super) fn put(state: &mut State, request: &Request) -> Answer {
    // As S3 has it, and Google's store: nothing is to be there, that is, generation 0.
    let is_create = request.headers.contains_key("if-none-match")
        || request.headers.get("x-goog-if-generation-match") == Some(&"0".to_owned());
    let key = (request.bucket.clone(), request.key.clone());
    let exists = state.objects.contains_key(&key);
    if is_create && exists && !state.faults.ignores_conditions {
        return Answer::error(412, "PreconditionFailed", "");
    }
    state.put(&request.bucket, &request.key, request.body.clone());
    state.counts.puts += 1;
    let count = state.counts.puts;
    if is_due(state.faults.fail_after_put_every, count) {
        state.counts.failed_puts += 1;
        return Answer::error(500, "InternalError", "");
    }
    if is_due(state.faults.silent_after_put_every, count) {
        state.counts.failed_puts += 1;
        return Answer {
            is_silent: true,
            ..Answer::default()
        };
    }
    let mut answer = Answer::new(200, "");
    let etag = state.objects[&key].etag.clone();
    answer.headers.push(("ETag", etag));
    answer
}

pub(super) fn get(state: &State, request: &Request) -> Answer {
    let key = (request.bucket.clone(), request.key.clone());
    let is_head = request.method == "HEAD";
    let Some(object) = state.objects.get(&key) else {
        let mut answer = Answer::error(404, "NoSuchKey", "");
        if is_head {
            answer.body.clear();
        }
        return answer;
    };
    let expected = request.headers.get("if-match");
    if expected.is_some_and(|expected| *expected != object.etag) {
        return Answer::error(412, "PreconditionFailed", "");
    }
    let size = object.bytes.len();
    let mut answer = Answer::new(200, object.bytes.clone());
    let range = request.headers.get("range");
    if let Some((begin, end)) = range.and_then(|range| parsed_range(range, size)) {
        answer.status = 206;
        answer.body = object.bytes.slice(begin..end);
        let content_range = format!("bytes {begin}-{}/{size}", end - 1);
        answer.headers.push(("Content-Range", content_range));
    }
    answer.headers.push(("ETag", object.etag.clone()));
    let modified = object.modified.format("%a, %d %b %Y %H:%M:%S GMT");
    answer.headers.push(("Last-Modified", modified.to_string()));
    if is_head {
        answer.length = Some(answer.body.len());
        answer.body.clear();
    }
    answer
}

/// `bytes=1-2`, `bytes=1-` and `bytes=-2` as begin and end.
fn parsed_range(range: &str, size: usize) -> Option<(usize, usize)> {
    let (begin, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (begin, end) = match (begin, end) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (begin, "") => (begin.parse().ok()?, size),
        (begin, end) => (begin.parse().ok()?, end.parse::<usize>().ok()? + 1),
    };
    let end = end.min(size);
    (begin < end).then_some((begin, end))
}

pub(super) fn list(state: &State, request: &Request) -> Answer {
    let parameter = |name: &str| request.query.get(name).map_or("", String::as_str);
    let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
    let after = parameter("continuation-token").max(parameter("start-after"));
    let mut folders = BTreeSet::new();
    let mut contents = String::new();
    let mut last = None;
    let mut n_keys = 0;
    for ((bucket, key), object) in &state.objects {
        let is_meant = *bucket == request.bucket && key.starts_with(prefix);
        if !is_meant || key.as_str() <= after {
            continue;
        }
        if n_keys == PAGE_KEYS {
            break;
        }
        n_keys += 1;
        last = Some(key);
        let rest = &key[prefix.len()..];
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => {
                folders.insert(key[..=prefix.len() + end].to_owned());
            }
            None => contents.push_str(&format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                escaped(key),
                object.modified.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
                escaped(&object.etag),
                object.bytes.len()
            )),
        }
    }
    let token = match last {
        Some(last) if n_keys == PAGE_KEYS => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>",
            escaped(last)
        ),
        _ => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    let folders: String = folders
        .iter()
        .map(|folder| {
            format!(
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                escaped(folder)
            )
        })
        .collect();
    Answer::new(
        200,
        format!("<ListBucketResult>{token}{contents}{folders}</ListBucketResult>"),
    )
}

pub(super) fn delete_many(state: &mut State, request: &Request) -> Answer {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let mut deleted = String::new();
    for part in body.split("<Key>").skip(1) {
        let key = part.split("</Key>").next().unwrap_or_default();
        let object = (request.bucket.clone(), unescaped(key));
        state.objects.remove(&object);
        deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
    }
    Answer::new(200, format!("<DeleteResult>{deleted}</DeleteResult>"))
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    let text = text.replace("&quot;", "\"").replace("&gt;", ">");
    text.replace("&lt;", "<").replace("&amp;", "&")
}
