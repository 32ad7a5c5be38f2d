//! Few-shot examples: real pairs of a document and a query, chosen anew for each item.

use crate::draw;

/// Most demonstrations of one prompt.
pub const DEMONSTRATIONS_MAX: usize = 32;

/// A document and a query that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demonstration {
    /// Id of the document (or of the query, if queries are the items): never shown to its own item.
    pub id: String,
    /// The document.
    pub document: String,
    /// The query.
    pub query: String,
    /// Label of the pair, if known.
    pub label: Option<String>,
}

/// The `k` demonstrations of an item: a pure function of (seed, item id) and of what is in the
/// pool, whatever its order. Fewer than `k` if the pool has no more; at most
/// [`DEMONSTRATIONS_MAX`]; never the item itself.
#[must_use]
pub fn choose_demonstrations<'a>(
    seed: u64,
    item_id: &str,
    k: usize,
    pool: &'a [Demonstration],
) -> Vec<&'a Demonstration> {
    let key = |demonstration: &Demonstration| {
        // Each pair (item, demonstration) has a number; the smallest are chosen. So a new
        // demonstration changes only the prompts that it gets into.
        draw::unit(
            &format!("demonstration/{}", demonstration.id),
            seed,
            item_id,
        )
    };
    let mut keyed: Vec<(f64, &Demonstration)> = pool
        .iter()
        .filter(|demonstration| demonstration.id != item_id)
        .map(|demonstration| (key(demonstration), demonstration))
        .collect();
    keyed.sort_by(|(a_key, a), (b_key, b)| {
        let texts = |d: &'a Demonstration| (&d.id, &d.query, &d.document, &d.label);
        a_key.total_cmp(b_key).then_with(|| texts(a).cmp(&texts(b)))
    });
    keyed.truncate(k.min(DEMONSTRATIONS_MAX));
    keyed
        .into_iter()
        .map(|(_, demonstration)| demonstration)
        .collect()
}

/// One on which templates are tried out.
pub(super) fn sample() -> Demonstration {
    Demonstration {
        id: "sample".to_owned(),
        document: "A sample.".to_owned(),
        query: "a sample".to_owned(),
        label: Some("related".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(n: usize) -> Vec<Demonstration> {
        (0..n)
            .map(|i| Demonstration {
                id: format!("doc-{i}"),
                document: format!("document {i}"),
                query: format!("query {i}"),
                label: None,
            })
            .collect()
    }

    fn ids(item_id: &str, k: usize, pool: &[Demonstration]) -> Vec<String> {
        let chosen = choose_demonstrations(7, item_id, k, pool);
        chosen
            .into_iter()
            .map(|demonstration| demonstration.id.clone())
            .collect()
    }

    #[test]
    fn an_item_never_demonstrates_itself() {
        for item in 0..5 {
            let item_id = format!("doc-{item}");
            let chosen = ids(&item_id, 10, &pool(5));
            assert_eq!(chosen.len(), 4);
            assert!(!chosen.contains(&item_id));
        }
    }

    #[test]
    fn the_order_of_the_pool_does_not_count() {
        let forward = pool(20);
        let backward: Vec<Demonstration> = forward.iter().rev().cloned().collect();
        assert_eq!(ids("x", 3, &forward), ids("x", 3, &backward));
        assert_ne!(ids("x", 3, &forward), ids("y", 3, &forward));
    }

    #[test]
    fn each_is_chosen_equally_often() {
        let pool = pool(10);
        let mut counts = [0_usize; 10];
        for item in 0..4_000 {
            for id in ids(&format!("item-{item}"), 2, &pool) {
                counts[id["doc-".len()..].parse::<usize>().unwrap()] += 1;
            }
        }
        // Six standard deviations around 800.
        assert!(
            counts.iter().all(|count| (650..=950).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_prompt_has_a_bounded_number_of_them() {
        assert_eq!(ids("x", 1_000, &pool(50)).len(), DEMONSTRATIONS_MAX);
        assert!(ids("x", 3, &[]).is_empty());
    }
}
