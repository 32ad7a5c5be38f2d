//! The same architectures over candle's plain operators, on any device that candle knows: slower
//! than [`CausalModel`](crate::CausalModel) on processors, and the way to GPUs.
//!
//! Sequences of a batch are padded at their ends to the longest: causal attention never sees what
//! comes after. Logits are taken for [`LOSS_ROWS`] rows at a time.

mod network;

use candle_core::{DType, Device};

use crate::architecture::Architecture;
use crate::{LanguageModel, ModelDirectory, ModelError, WeightType};
use network::Network;

/// Rows, padding included, that run at once.
const BATCH_ROWS: usize = 8192;
/// Rows whose logits are held at once.
const LOSS_ROWS: usize = 1024;

/// A model on a device.
#[derive(Debug)]
pub struct DeviceModel {
    architecture: Architecture,
    network: Network,
}

impl DeviceModel {
    /// Reads all weights to a device (`cpu`, or `cuda:N` in builds with the feature `cuda`).
    ///
    /// # Errors
    ///
    /// If the device is not there, or as [`ModelDirectory::load`].
    pub fn load(
        directory: &ModelDirectory,
        device: &str,
        weights: WeightType,
    ) -> Result<Self, ModelError> {
        let device = device_named(device)?;
        let dtype = match weights {
            WeightType::F32 => DType::F32,
            WeightType::Bf16 => DType::BF16,
            WeightType::F16 => DType::F16,
        };
        Ok(Self {
            architecture: directory.architecture().clone(),
            network: Network::load(directory, device, dtype)?,
        })
    }
}

/// Whether a device of this name can be used here; says why not. For a worker's start.
///
/// # Errors
///
/// If it cannot.
pub fn check_device(name: &str) -> Result<(), ModelError> {
    device_named(name).map(drop)
}

fn device_named(name: &str) -> Result<Device, ModelError> {
    let number = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        Some(("cuda", number)) => number.parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        return Err(ModelError::input(format!(
            "no device is called {name:?}: there are cpu and cuda:N"
        )));
    };
    Device::new_cuda(number).map_err(|e| ModelError::Device {
        problem: format!("{name}: {e} (a build with the feature cuda and a driver are needed)"),
    })
}

impl LanguageModel for DeviceModel {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn context(&self) -> usize {
        self.architecture.max_positions
    }

    fn losses(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.architecture.check(sequences, self.context())?;
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.retain(|&sequence| sequences[sequence].len() > 1);
        order.sort_by_key(|&sequence| std::cmp::Reverse(sequences[sequence].len()));
        let mut losses = vec![Vec::new(); sequences.len()];
        let mut rest = &order[..];
        while let Some(&longest) = rest.first() {
            let n = (BATCH_ROWS / sequences[longest].len()).clamp(1, rest.len());
            let (now, later) = rest.split_at(n);
            let batch: Vec<&[u32]> = now.iter().map(|&sequence| sequences[sequence]).collect();
            let of_batch = self.network.losses(&self.architecture, &batch);
            let of_batch = of_batch.map_err(|e| ModelError::Device {
                problem: format!("a batch of {n} sequences failed: {e}"),
            })?;
            for (&sequence, of_sequence) in now.iter().zip(of_batch) {
                losses[sequence] = of_sequence;
            }
            rest = later;
        }
        Ok(losses)
    }
}
