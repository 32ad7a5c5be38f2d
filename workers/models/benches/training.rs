//! Tokens per second of training for each size, on the threads of the machine.

#![expect(clippy::print_stdout, reason = "a bench that prints a table")]

use std::error::Error;
use std::time::Instant;

use gleaner_models::train::{
    Documents, Length, Size, Start, TrainedTokenizer, Trainer, TrainingConfig,
};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = (0_u64..60_000)
        .map(|i| format!("{:x}", (i * i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44))
        .collect();
    let text = words.join(" ");
    let wanted = std::env::args().find_map(|argument| argument.parse::<Size>().ok());
    println!("size   parameters    tokens/s   tokens per second and thread   bytes needed");
    for size in Size::ALL {
        if wanted.is_some_and(|wanted| wanted != size) || (wanted.is_none() && size == Size::M125) {
            continue;
        }
        let tokenizer = TrainedTokenizer::from_texts([&text], size.shape().vocab_size)?;
        let start = Start::scratch(size, &tokenizer, 0)?;
        let mut documents = Documents::new(start.eos_id());
        documents.push(&start.tokenizer().encode(&text)?);
        let config = TrainingConfig {
            length: Length::Steps(1000),
            evaluate_every: 1000,
            ..TrainingConfig::scratch(size)
        };
        let n_threads = rayon::current_num_threads();
        let bytes = config.bytes_to_train(start.architecture(), n_threads)?;
        let n_parameters = start.architecture().n_parameters();
        let mut trainer = Trainer::new(config, documents.split(0.0, 0, 0)?, start)?;
        trainer.step()?;
        let before = Instant::now();
        let mut n_tokens = 0;
        let mut done = 0;
        while before.elapsed().as_secs() < 10 {
            let Some(report) = trainer.step()? else { break };
            let per_step = report.n_tokens / report.step;
            n_tokens += per_step;
            done += 1;
        }
        let speed = n_tokens as f64 / before.elapsed().as_secs_f64();
        println!(
            "{size:<6} {n_parameters:<13} {speed:<10.0} {:<30.0} {bytes}   ({done} steps)",
            speed / n_threads as f64
        );
    }
    Ok(())
}
