//! Parity with the original implementation: counts, log ratios, weights, tokens, buckets.

use arrow::array::AsArray as _;
use arrow::datatypes::{Float64Type, UInt64Type};
use gleaner_algorithms::{FeatureExtractor, FeatureSpec, NgramHash, Tokenizer};
use gleaner_tests::golden::Golden;
use gleaner_tests::program::{Opened, Workspace, repository};
use serde_json::Value;

/// One set of values of the reference.
struct Case {
    /// Folder: `re` is NLTK 3.8, `regex` is NLTK 3.10.
    engine: &'static str,
    ngrams: u8,
    buckets: u32,
    pseudo_count: &'static str,
}

const fn case(engine: &'static str, ngrams: u8, buckets: u32, pseudo_count: &'static str) -> Case {
    Case {
        engine,
        ngrams,
        buckets,
        pseudo_count,
    }
}

const BUNDLED: [Case; 2] = [case("re", 2, 10_000, "0"), case("regex", 2, 10_000, "0")];
const FULL: [Case; 7] = [
    case("re", 1, 10_000, "0"),
    case("re", 1, 10_000, "1"),
    case("re", 2, 10_000, "0"),
    case("re", 2, 10_000, "1"),
    case("re", 2, 1_000, "0.5"),
    case("re", 3, 10_000, "0"),
    case("regex", 2, 10_000, "0"),
];

impl Case {
    fn tokenizer(&self) -> (&'static str, Tokenizer) {
        match self.engine {
            "re" => ("wordpunct_legacy", Tokenizer::WordPunctLegacy),
            _ => ("wordpunct", Tokenizer::WordPunct),
        }
    }

    fn check(&self, golden: &Golden) {
        let Self {
            engine,
            ngrams: n,
            buckets,
            pseudo_count,
        } = self;
        let workspace = Workspace::new();
        let extension = |name: &str| {
            let path = golden.path(name);
            if path.extension().unwrap() == "zst" {
                ".zst"
            } else {
                ""
            }
        };
        let (raw, target) = ("raw.jsonl", "target.jsonl");
        for name in [raw, target] {
            let bytes = std::fs::read(golden.path(name)).unwrap();
            workspace.write(&format!("{name}{}", extension(name)), bytes);
        }
        workspace.write(
            "job.yaml",
            format!(
                "name: golden\noutput: out\ncorpus: {{paths: [raw.jsonl{}]}}\ndatasets: {{target: \
                 {{paths: [target.jsonl{}]}}}}\nstages:\n  weights: {{kind: importance_weights, \
                 target: target, hash: sha256, fit_sample: all, tokenizer: {}, ngrams: {n}, \
                 buckets: {buckets}, target_pseudo_count: {pseudo_count}}}\n",
                extension(raw),
                extension(target),
                self.tokenizer().0
            ),
        );
        let _ = workspace.run(&[]).expect(0);
        let opened = Opened::new(&workspace.path().join("out"));
        let model = opened
            .query("SELECT raw_count, target_count, log_ratio FROM weights_model ORDER BY bucket");
        let name = |what: &str| format!("{engine}/{what}_n{n}_b{buckets}");
        for (column, what) in [(0, "raw_counts"), (1, "target_counts")] {
            let found = model.column(column).as_primitive::<UInt64Type>();
            let found: Vec<f64> = found.values().iter().map(|count| *count as f64).collect();
            assert_eq!(
                found,
                golden.numbers(&format!("{}.npy", name(what))),
                "{}",
                name(what)
            );
        }
        let log_ratios = golden.numbers(&format!("{}_s{pseudo_count}.npy", name("log_diff")));
        let found = model.column(2).as_primitive::<Float64Type>().values();
        assert_eq!(found.len(), log_ratios.len());
        for (found, expected) in found.iter().zip(&log_ratios) {
            assert!((found - expected).abs() <= 4e-15, "{found} {expected}");
        }
        self.check_weights(golden, &opened, &log_ratios, &name("log_weights_exact"));
    }

    fn check_weights(&self, golden: &Golden, opened: &Opened, log_ratios: &[f64], name: &str) {
        let rows =
            opened.query("SELECT log_weight, n_tokens, eligible FROM weights ORDER BY input_row");
        let weights = rows.column(0).as_primitive::<Float64Type>().values();
        let expected = golden.numbers(&format!("{name}_s{}.npy", self.pseudo_count));
        assert_eq!(weights.len(), expected.len());
        let mut extractor = FeatureExtractor::new(FeatureSpec {
            tokenizer: self.tokenizer().1,
            ngrams: self.ngrams,
            buckets: self.buckets,
            hash: NgramHash::Sha256,
        })
        .unwrap();
        let raw = golden.read("raw.jsonl");
        let texts = raw
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let texts: Vec<String> = texts
            .map(|line| {
                let document: Value = serde_json::from_slice(line).unwrap();
                document["text"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(texts.len(), expected.len());
        for ((weight, expected), text) in weights.iter().zip(&expected).zip(&texts) {
            let buckets = extractor.extract(text).buckets;
            let size: f64 = buckets
                .iter()
                .map(|&bucket| log_ratios[bucket as usize].abs())
                .sum();
            let tolerance = 1e-12 * size.max(1.0);
            assert!(
                (weight - expected).abs() <= tolerance,
                "{weight} {expected} {tolerance}"
            );
        }
    }
}

#[test]
fn bundled_counts_ratios_and_weights_are_those_of_the_reference() {
    for case in &BUNDLED {
        case.check(&Golden::bundled());
    }
}

#[test]
fn the_full_set_too_where_it_is_at_hand() {
    let Some(golden) = Golden::full() else {
        eprintln!("the full golden set is not at hand; the bundled part was tested");
        return;
    };
    for case in &FULL {
        case.check(&golden);
    }
}

#[test]
fn every_token_case_has_the_tokens_and_buckets_of_the_reference() {
    let cases = Golden::bundled().json("token_cases.json");
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().unwrap().iter();
        texts
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    };
    let buckets_of = |value: &Value| -> Vec<u32> {
        let buckets = value.as_array().unwrap().iter();
        buckets
            .map(|bucket| bucket.as_u64().unwrap() as u32)
            .collect()
    };
    let mut extractors = Vec::new();
    for tokenizer in [Tokenizer::WordPunctLegacy, Tokenizer::WordPunct] {
        for (ngrams, buckets) in [(1, 10_000), (2, 10_000), (3, 10_000), (1, 65_536)] {
            let hash = NgramHash::Sha256;
            let spec = FeatureSpec {
                tokenizer,
                ngrams,
                buckets,
                hash,
            };
            extractors.push(FeatureExtractor::new(spec).unwrap());
        }
    }
    let (legacy, modern) = extractors.split_at_mut(4);
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 200);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let tokens = texts(&case["tokens"]);
        let of_modern = case.get("tokens_regex_engine").map(&texts);
        let of_modern = of_modern.as_ref().unwrap_or(&tokens);
        let _ = modern[0].extract(text);
        let found: Vec<&str> = modern[0].tokens().iter().collect();
        assert_eq!(&found, of_modern, "{text:?}");
        let sorted = |mut buckets: Vec<u32>| {
            buckets.sort_unstable();
            buckets
        };
        let (uni, bi, tri) = (&case["uni"], &case["bi"], &case["tri"]);
        let expected = [
            buckets_of(uni),
            [buckets_of(uni), buckets_of(bi)].concat(),
            [buckets_of(uni), buckets_of(bi), buckets_of(tri)].concat(),
            buckets_of(&case["uni_65536"]),
        ];
        for (extractor, expected) in legacy.iter_mut().zip(expected) {
            let features = extractor.extract(text);
            assert_eq!(features.n_tokens as usize, tokens.len(), "{text:?}");
            assert_eq!(
                sorted(features.buckets.to_vec()),
                sorted(expected),
                "{text:?}"
            );
        }
        let found: Vec<&str> = legacy[0].tokens().iter().collect();
        assert_eq!(found, tokens, "{text:?}");
    }
}

/// The reference's weights of a real corpus, whatever the split of the work.
#[test]
fn weights_of_the_example_corpus_are_those_of_the_reference_for_every_split() {
    let workspace = Workspace::new();
    let examples = repository().join("examples/data");
    workspace.write(
        "job.yaml",
        format!(
            "name: parity\noutput: out\ncorpus: {{paths: ['{0}/corpus/*.parquet']}}\ndatasets: \
             {{biomedical: {{paths: ['{0}/biomedical/train.jsonl.zst']}}, reference: {{paths: \
             ['{0}/reference/dsir_biomedical.parquet'], columns: {{text: id}}}}}}\nstages:\n  \
             weights: {{kind: importance_weights, target: biomedical, hash: sha256, fit_sample: \
             all}}\n",
            examples.display()
        ),
    );
    let reference = examples.join("reference/dsir_biomedical.parquet");
    let file = std::fs::File::open(reference).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    let mut expected = std::collections::BTreeMap::new();
    for batch in reader.unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let ids = arrow::compute::cast(
            batch.column_by_name("id").unwrap(),
            &arrow::datatypes::DataType::Utf8,
        )
        .unwrap();
        let weights = batch
            .column_by_name("log_weight")
            .unwrap()
            .as_primitive::<Float64Type>();
        for (id, weight) in ids.as_string::<i32>().iter().zip(weights.values()) {
            expected.insert(id.unwrap().to_owned(), *weight);
        }
    }
    assert_eq!(expected.len(), 5595);
    for (task_bytes, workers) in [("256MiB", "1"), ("100KiB", "3")] {
        let _ = workspace
            .run(&[
                "--set",
                &format!("task_bytes={task_bytes}"),
                "--workers",
                workers,
            ])
            .expect(0);
        let opened = Opened::new(&workspace.path().join("out"));
        let rows = opened.query("SELECT doc_id, log_weight, n_tokens FROM weights");
        assert_eq!(rows.num_rows(), expected.len());
        let ids = rows.column(0);
        let ids = arrow::compute::cast(ids, &arrow::datatypes::DataType::Utf8).unwrap();
        let weights = rows.column(1).as_primitive::<Float64Type>();
        for (id, weight) in ids.as_string::<i32>().iter().zip(weights.values()) {
            let expected = expected[id.unwrap()];
            // Log ratios are below 20, so a document of 10 000 n-grams sums to 2e5 at most.
            assert!(
                (weight - expected).abs() <= 2e-7,
                "{id:?} {weight} {expected}"
            );
        }
    }
}
