//! What holds of any reply.

use proptest::prelude::*;

use super::tests::{PROPER, asked, reply};
use super::tree::{Tree, candidates};
use super::*;
use crate::prompt::{AskedJudgements, TextKind};
use crate::scale::Scale;

/// A tree as `serde_json` sees it.
fn as_value(tree: &Tree) -> serde_json::Value {
    match tree {
        Tree::Text { value, .. } => value.as_str().into(),
        Tree::Number(number) | Tree::Word(number) => serde_json::from_str(number).unwrap(),
        Tree::Array(elements) => elements.iter().map(as_value).collect(),
        Tree::Object(members) => members
            .iter()
            .map(|(key, tree)| (key.clone(), as_value(tree)))
            .collect(),
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Pieces from which texts near to replies are made.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "“", "”", "'", "\\", "\\u", "\\ud83d", "d83d", "\n",
            "```", "```json", "</think>", "null", "-", "1e9999", "query_1", "label", "query",
            "relevant", "irrelevant", "pair_1", " ", "\u{feff}", "字",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// Texts of little but brackets, some long enough to fill a stack by recursion.
fn bracket_soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{", "[", "{", "[", "}", "]", "{\"a\":", "{a:", "[1,", ",", ":", "\"", " ",
    ]);
    let part = (
        proptest::collection::vec(piece, 1..6),
        prop_oneof![3 => 1_usize..4, 1 => 1_000_usize..20_000],
    )
        .prop_map(|(pieces, n_times)| pieces.concat().repeat(n_times));
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
}

/// Reads a text on a stack that unbounded recursion would overflow at once.
fn read_on_small_stack(text: String) {
    let reader = std::thread::Builder::new().stack_size(256 * 1024);
    let handle = reader.spawn(move || {
        let reply = reply(&text);
        let _ = parse_texts(&reply, &asked(&Scale::trec(), 1, TextKind::Query));
        let asked = AskedJudgements {
            scale: Scale::trec(),
            order: vec![1, 0],
        };
        let _ = parse_judgements(&reply, &asked);
    });
    handle.unwrap().join().unwrap();
}

#[test]
fn no_nesting_overflows_the_stack() {
    for piece in ["{", "[", "{\"a\":", "{[", "[{", "{{\"a\":[", "{\"", "{a:[{"] {
        read_on_small_stack(piece.repeat(1_000_000 / piece.len()));
    }
    // Nesting that is still read, and one that no longer is.
    for depth in [10, 32, 33, 1_000] {
        let text = format!("{}1{}", "{\"a\":[".repeat(depth), "]}".repeat(depth));
        read_on_small_stack(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bracket_soup_overflows_no_stack(text in bracket_soup()) {
        read_on_small_stack(text);
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_comes_unasked(text in pieces(), is_cut in any::<bool>()) {
        let finish = if is_cut { Finish::Truncated } else { Finish::Complete };
        let reply = Reply { text: &text, finish, schema_sent: true };
        let asked_texts = asked(&Scale::trec(), 1, TextKind::Query);
        let parsed = parse_texts(&reply, &asked_texts);
        prop_assert!(parsed.items.len() <= asked_texts.n_texts());
        prop_assert!(!parsed.is_complete() || parsed.items.len() == asked_texts.n_texts());
        let asked = AskedJudgements { scale: Scale::trec(), order: vec![1, 0] };
        prop_assert_eq!(parse_judgements(&reply, &asked).grades.len(), 2);
    }

    #[test]
    fn json_is_read_as_json_and_not_mended(value in json()) {
        let text = serde_json::to_string(&[&value]).unwrap();
        let found = candidates(&text).next().unwrap();
        prop_assert!(!found.is_repaired, "{text}");
        prop_assert_eq!(as_value(&found.tree), serde_json::json!([value]));
    }

    #[test]
    fn what_is_not_mended_is_json(text in pieces()) {
        if let Some(found) = candidates(&text).next().filter(|found| !found.is_repaired) {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text} {found:?}");
        }
    }

    #[test]
    fn any_cut_of_a_reply_is_no_complete_one(end in 0_usize..PROPER.len()) {
        let asked = asked(&Scale::binary(), 1, TextKind::Query);
        let cut = Reply { finish: Finish::Truncated, ..reply(&PROPER[..end]) };
        let parsed = parse_texts(&cut, &asked);
        // Nothing but brackets is left out of what is complete.
        let only_brackets = PROPER[end..].chars().all(|c| c == '}');
        let first = parsed.problems.first().map(ReplyProblem::class);
        prop_assert_eq!(first, if only_brackets { None } else { Some("truncated") });
        prop_assert!(parsed.items.iter().all(|item| item.text == "a" || item.text == "b"));
    }

    #[test]
    fn texts_that_a_server_enforces_come_back(
        queries in proptest::collection::vec("[^\\p{C}\\p{Z}]{1,100}", 4),
    ) {
        let scale = Scale::trec();
        let asked = asked(&scale, 1, TextKind::Query);
        let entries: serde_json::Map<String, serde_json::Value> = (0..4)
            .map(|index| {
                let label = &scale.grades()[index].label;
                let entry = serde_json::json!({ "label": label, "query": queries[index] });
                (asked.entry_key(index), entry)
            })
            .collect();
        let text = serde_json::to_string(&entries).unwrap();
        let parsed = parse_texts(&Reply { schema_sent: true, ..reply(&text) }, &asked);
        prop_assert!(parsed.is_complete(), "{:?}", parsed.problems);
        prop_assert!(parsed.flags.is_empty());
        for (item, query) in parsed.items.iter().zip(&queries) {
            prop_assert_eq!(&item.text, &crate::text::normalize_query(query));
        }
    }
}
