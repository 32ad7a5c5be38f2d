//! Thousands of seeds of the commit protocol under faults.
//!
//! `GLEANER_SIMULATION_SEEDS` sets how many, `GLEANER_SIMULATION_FIRST` where they start: a seed
//! that fails is run alone by `GLEANER_SIMULATION_FIRST=<seed> GLEANER_SIMULATION_SEEDS=1`.

use std::panic::catch_unwind;

use gleaner_tests::simulation::{Mutant, Report, simulate, simulate_with};

const SEEDS: u64 = 3000;
/// A planted bug is found within so many seeds.
const MUTANT_SEEDS: u64 = 100;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn nothing_is_lost_or_doubled_whatever_breaks() {
    let first = from_env("GLEANER_SIMULATION_FIRST", 0);
    let seeds = from_env("GLEANER_SIMULATION_SEEDS", SEEDS);
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads: Vec<_> = (0..n_threads)
        .map(|thread| {
            std::thread::spawn(move || {
                (first + thread..first + seeds)
                    .step_by(n_threads as usize)
                    .map(simulate)
                    .fold(Report::default(), Report::plus)
            })
        })
        .collect();
    let reports = threads.into_iter().map(|thread| thread.join().unwrap());
    let report = reports.fold(Report::default(), Report::plus);
    println!("{seeds} seeds: {report:?}");
    if seeds >= 100 {
        // Otherwise the world is too kind for the test to mean something.
        assert!(report.n_faults > 10 * seeds, "{report:?}");
        assert!(report.n_kills > seeds, "{report:?}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for mutant in Mutant::ALL {
        let found = (0..MUTANT_SEEDS).find_map(|seed| {
            let panic = catch_unwind(|| simulate_with(seed, Some(mutant))).err()?;
            let message = panic.downcast_ref::<String>().cloned();
            Some((seed, message.unwrap_or_default()))
        });
        let Some((seed, message)) = found else {
            panic!("{mutant:?} is not found in {MUTANT_SEEDS} seeds");
        };
        println!("{mutant:?} is found with seed {seed}: {message}");
        assert!(message.contains(mutant.symptom()), "{mutant:?}: {message}");
    }
}
