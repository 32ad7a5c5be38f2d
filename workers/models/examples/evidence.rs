//! Does it work? Trains a prior on a sample of a corpus and a conditional on a target, scores a
//! slice that neither was trained on, and prints how many of the best k documents come from the
//! sources that count as right.
//!
//! ```text
//! cargo run --release -p gleaner-models --example evidence -- corpus.jsonl target.jsonl \
//!     source,source [name=value ...]
//! ```
//!
//! Lines are objects with `text`, and in the corpus `source`; the sources that count as right are
//! given as a list. Settings and their defaults: see [`Settings`].

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use gleaner_models::train::{
    Documents, HELD_OUT_SHARE, HELD_OUT_TOKENS_MAX, Length, Size, Start, TrainedModel,
    TrainedTokenizer, Trainer, TrainingConfig,
};
use gleaner_models::windows::document_windows;
use gleaner_models::{LoadOptions, ModelDirectory, losses_together};
use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What can be set as `name=value`.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn get<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.0
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    }
}

struct Row {
    text: String,
    source: String,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [corpus, target, right, settings @ ..] = arguments.as_slice() else {
        return Err("corpus.jsonl target.jsonl source,source [name=value ...]".into());
    };
    let settings = settings.iter().filter_map(|s| s.split_once('='));
    let settings = Settings(
        settings
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    );
    let right: Vec<&str> = right.split(',').collect();
    let n_scored: usize = settings.get("scored", 4000);
    let tokens_max: usize = settings.get("max_tokens", 512);

    // The corpus is in random order: the first rows are scored, the prior trains on those behind.
    let mut rows = read(corpus)?;
    let rest = rows.split_off(n_scored.min(rows.len()));
    let started = Instant::now();
    // A prior that is there already is used as it is: `prior=FOLDER` keeps one for several runs.
    let folder = match settings.0.get("prior") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::temp_dir().join(format!("gleaner-evidence-{}", std::process::id())),
    };
    if !folder.join("model.safetensors").exists() {
        train_prior(&settings, &rest)?.write(&folder)?;
    }
    let open = || Start::directory(&folder, None);
    let start = open()?;
    let mut documents = Documents::new(start.eos_id());
    for row in read(target)? {
        documents.push(&start.tokenizer().encode(&row.text)?);
    }
    let config = TrainingConfig::continued(start.architecture());
    let config = TrainingConfig {
        length: Length::Epochs(settings.get("epochs", 1)),
        learning_rate: settings.get("lr2", config.learning_rate),
        sequences_per_step: settings.get("batch2", config.sequences_per_step),
        context: settings.get("context", config.context),
        frozen_layers: settings.get("frozen", config.frozen_layers),
        ..config
    };
    let context = config.context;
    let conditional = train("conditional", config, &documents, start)?;
    println!("training in all: {:.1} s", seconds(started));

    let started = Instant::now();
    let tokenizer = open()?;
    let mut ids = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut tokens = tokenizer.tokenizer().encode(&row.text)?;
        tokens.truncate(tokens_max);
        ids.push(tokens);
    }
    let beside = folder.join("conditional");
    conditional.write(&beside)?;
    let [prior, conditional] = losses(&folder, &beside, &ids, context)?;
    if !settings.0.contains_key("prior") {
        std::fs::remove_dir_all(&folder)?;
    }
    let n_tokens: usize = ids.iter().map(Vec::len).sum();
    println!(
        "scored {} documents, {n_tokens} tokens, two models: {:.1} s",
        rows.len(),
        seconds(started)
    );

    let is_right: Vec<bool> = rows
        .iter()
        .map(|row| right.contains(&row.source.as_str()))
        .collect();
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len().max(1) as f32;
    for tokens_min in [1, 32, 100] {
        let eligible: Vec<usize> = (0..rows.len())
            .filter(|&i| ids[i].len() >= tokens_min)
            .collect();
        let n_right = eligible.iter().filter(|&&i| is_right[i]).count();
        println!(
            "\ndocuments of at least {tokens_min} tokens: {}, right: {:.3}",
            eligible.len(),
            n_right as f64 / eligible.len() as f64
        );
        let ks: Vec<usize> = [50, 100, 200, 400, 800, n_right]
            .into_iter()
            .filter(|&k| k <= eligible.len())
            .collect();
        let names: Vec<String> = ks.iter().map(|k| format!("P@{k:<5}")).collect();
        println!("{:<28} {}", "", names.join(" "));
        print_row("loss reduction", &eligible, &ks, &is_right, |i| {
            mean(&prior[i]) - mean(&conditional[i])
        });
        print_row("conditional loss alone", &eligible, &ks, &is_right, |i| {
            -mean(&conditional[i])
        });
        print_row("perplexity alone (prior)", &eligible, &ks, &is_right, |i| {
            -mean(&prior[i])
        });
        print_row("random", &eligible, &ks, &is_right, |i| {
            ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32
        });
    }
    sources(&rows, &ids, |i| mean(&prior[i]) - mean(&conditional[i]));
    Ok(())
}

fn train_prior(settings: &Settings, rows: &[Row]) -> Outcome<TrainedModel> {
    let size: Size = settings.get("size", Size::M5);
    let started = Instant::now();
    let texts = rows.iter().map(|row| row.text.as_str());
    let config = TrainingConfig::scratch(size);
    let tokenizer = TrainedTokenizer::from_texts(texts.clone(), size.shape().vocab_size)?;
    println!(
        "tokenizer of {} tokens: {:.1} s",
        tokenizer.tokenizer().n_ids(),
        seconds(started)
    );

    let n_tokens = settings.get(
        "tokens",
        match config.length {
            Length::Tokens(n) => n,
            Length::Epochs(_) | Length::Steps(_) => 1_000_000,
        },
    );
    let start = Start::scratch(size, &tokenizer, settings.get("seed", 0))?;
    let mut documents = Documents::new(start.eos_id());
    for text in texts {
        if documents.n_tokens() >= n_tokens {
            break;
        }
        documents.push(&start.tokenizer().encode(text)?);
    }
    let config = TrainingConfig {
        length: Length::Tokens(n_tokens),
        learning_rate: settings.get("lr", config.learning_rate),
        sequences_per_step: settings.get("batch", config.sequences_per_step),
        ..config
    };
    train("prior", config, &documents, start)
}

/// The losses of every document's tokens under both models, in windows.
fn losses(
    prior: &Path,
    conditional: &Path,
    ids: &[Vec<u32>],
    context: usize,
) -> Outcome<[Vec<Vec<f32>>; 2]> {
    let directory = ModelDirectory::open(prior)?;
    let eos_id = directory.eos_id(None)?;
    let models = [
        directory.load(&LoadOptions::default())?,
        ModelDirectory::open(conditional)?.load(&LoadOptions::default())?,
    ];
    let mut windows = Vec::new();
    let mut document_of = Vec::new();
    for (document, ids) in ids.iter().enumerate() {
        for window in document_windows(eos_id, ids, context) {
            windows.push(window);
            document_of.push(document);
        }
    }
    let sequences: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let mut losses = [const { Vec::new() }; 2];
    let of_models = losses_together(&[&models[0], &models[1]], &sequences)?;
    for (losses, of_windows) in losses.iter_mut().zip(of_models) {
        losses.resize_with(ids.len(), Vec::new);
        for (&document, of_window) in document_of.iter().zip(of_windows) {
            losses[document].extend(of_window);
        }
    }
    Ok(losses)
}

fn print_row(
    name: &str,
    eligible: &[usize],
    ks: &[usize],
    is_right: &[bool],
    score: impl Fn(usize) -> f32,
) {
    let mut order = eligible.to_vec();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    let shares: Vec<String> = ks
        .iter()
        .map(|&k| {
            let n = order[..k].iter().filter(|&&i| is_right[i]).count();
            format!("{:<7.3}", n as f64 / k as f64)
        })
        .collect();
    println!("{name:<28} {}", shares.join(" "));
}

/// The mean reduction of every source, and its share of the best tenth.
fn sources(rows: &[Row], ids: &[Vec<u32>], score: impl Fn(usize) -> f32) {
    let mut order: Vec<usize> = (0..rows.len()).filter(|&i| !ids[i].is_empty()).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let n_best = order.len() / 10;
    let mut of_source: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for (rank, &i) in order.iter().enumerate() {
        let entry = of_source.entry(&rows[i].source).or_default();
        entry.0 += 1;
        entry.1 += usize::from(rank < n_best);
        entry.2 += f64::from(score(i));
    }
    println!(
        "\n{:<26} rows   in the best tenth   mean reduction",
        "source"
    );
    let mut lines: Vec<_> = of_source.into_iter().collect();
    lines.sort_by(|a, b| (b.1.2 / b.1.0 as f64).total_cmp(&(a.1.2 / a.1.0 as f64)));
    for (source, (n, n_best, sum)) in lines {
        println!("{source:<26} {n:<6} {n_best:<19} {:.4}", sum / n as f64);
    }
}

fn train(
    name: &str,
    config: TrainingConfig,
    documents: &Documents,
    start: Start,
) -> Outcome<TrainedModel> {
    let started = Instant::now();
    let data = documents.split(HELD_OUT_SHARE, HELD_OUT_TOKENS_MAX, 0)?;
    println!(
        "{name}: {} parameters, {} tokens of {} documents, {} held out",
        start.architecture().n_parameters(),
        data.n_tokens(),
        data.n_documents(),
        data.n_held_out_documents(),
    );
    let mut trainer = Trainer::new(config, data, start)?;
    if let Some(loss) = trainer.best_held_out_loss() {
        println!("  step 0: held out {loss:.4}");
    }
    let mut n_tokens = 0;
    while let Some(report) = trainer.step()? {
        n_tokens = report.n_tokens;
        if let Some(held_out) = report.held_out_loss {
            println!(
                "  step {} of {}: loss {:.4}, held out {held_out:.4}, norm {:.2}, {:.1} s",
                report.step,
                report.n_steps,
                report.loss,
                report.gradient_norm,
                seconds(started),
            );
        }
    }
    let model = trainer.finish()?;
    println!(
        "  {:.0} tokens per second; best step {}",
        n_tokens as f64 / seconds(started),
        model.best_step()
    );
    Ok(model)
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn read(path: &str) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let value: Value = serde_json::from_str(&line?)?;
        let field = |name| {
            value
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        rows.push(Row {
            text: field("text"),
            source: field("source"),
        });
    }
    Ok(rows)
}
