//! A trained model as the files of a Hugging Face directory; the same weights give the same bytes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::TrainError;
use super::parameters::Places;
use crate::{Architecture, StoredTensor};

/// A trained model.
#[derive(Debug, Clone)]
pub struct TrainedModel {
    pub(crate) files: Vec<(String, Bytes)>,
    pub(crate) n_steps: u64,
    pub(crate) best_step: u64,
    pub(crate) held_out_loss: Option<f64>,
}

impl TrainedModel {
    /// Name and bytes of every file: `config.json`, `model.safetensors`, `tokenizer.json` and those
    /// beside them.
    #[must_use]
    pub fn files(&self) -> &[(String, Bytes)] {
        &self.files
    }

    /// Steps that were made.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The step whose weights these are: that of the lowest held-out loss, 0 being the start.
    #[must_use]
    pub fn best_step(&self) -> u64 {
        self.best_step
    }

    /// Mean loss of the held-out tokens in nats.
    #[must_use]
    pub fn held_out_loss(&self) -> Option<f64> {
        self.held_out_loss
    }

    /// Writes the files into a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// If the folder or a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let failed = |path: &Path, e: std::io::Error| TrainError::Write {
            what: path.display().to_string(),
            problem: e.to_string(),
        };
        fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
        }
        Ok(())
    }
}

/// `model.safetensors` of flat weights.
pub(crate) fn safetensors(
    architecture: &Architecture,
    places: &Places,
    weights: &[f32],
) -> Result<Bytes, TrainError> {
    let failed = |problem: String| TrainError::Write {
        what: "model.safetensors".to_owned(),
        problem,
    };
    let tensors: Vec<StoredTensor> = architecture.stored_tensors(|slot| {
        let place = places.find(slot.layer, slot.part);
        let place = place.ok_or_else(|| failed(format!("no weight {:?}", slot.part)))?;
        Ok::<_, TrainError>(weights[place].to_vec())
    })?;
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
        views.push((
            tensor.name.as_str(),
            view.map_err(|e| failed(e.to_string()))?,
        ));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata));
    Ok(bytes.map_err(|e| failed(e.to_string()))?.into())
}
