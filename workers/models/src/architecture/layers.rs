//! The part of `config.json` that says what each layer attends to and how positions rotate.

use serde_json::{Map, Value};

use super::config::Config;
use super::{Family, Layer, Rotary, RotaryScaling};
use crate::ModelError;

impl Config<'_> {
    pub(super) fn layers(
        &self,
        family: Family,
        n_layers: usize,
        head_dim: usize,
    ) -> Result<Vec<Layer>, ModelError> {
        let rotary = self.rotary_layers(family, n_layers)?;
        let windows = self.windows(family, &rotary)?;
        let attention_scale = (head_dim as f64).powf(-0.5) as f32;
        let layers = rotary.into_iter().zip(windows);
        Ok(layers
            .map(|(rotary, window)| Layer {
                rotary,
                window,
                attention_scale,
            })
            .collect())
    }

    /// `no_rope_layers` means the opposite of its name: 1 where there is rotation.
    fn rotary_layers(&self, family: Family, n_layers: usize) -> Result<Vec<bool>, ModelError> {
        if family != Family::SmolLm3 {
            return Ok(vec![true; n_layers]);
        }
        let Some(flags) = self.get("no_rope_layers") else {
            let interval = self.maybe_size("no_rope_layer_interval")?.unwrap_or(4);
            return Ok((1..=n_layers).map(|n| n % interval != 0).collect());
        };
        let flags: Option<Vec<bool>> = flags.as_array().and_then(|flags| {
            let as_flag = |flag: &Value| match flag {
                Value::Bool(flag) => Some(*flag),
                flag => flag.as_u64().map(|n| n != 0),
            };
            flags.iter().map(as_flag).collect()
        });
        let flags = flags.filter(|flags| flags.len() >= n_layers);
        let mut flags = flags
            .ok_or_else(|| self.wrong("no_rope_layers", "a list of a flag for every layer"))?;
        flags.truncate(n_layers);
        Ok(flags)
    }

    fn windows(&self, family: Family, rotary: &[bool]) -> Result<Vec<Option<usize>>, ModelError> {
        let n_layers = rotary.len();
        let window = self.maybe_size("sliding_window")?;
        let is_null = self.map.get("sliding_window").is_some_and(Value::is_null);
        let default = (!is_null).then_some(4096);
        let used = self.flag("use_sliding_window", false)?;
        match family {
            // All layers, whatever layer_types says: transformers warns and ignores it.
            Family::Mistral => return Ok(vec![window.or(default); n_layers]),
            Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 => {}
            _ => {
                let types = self.layer_types(n_layers)?;
                if types.is_some_and(|types| types.contains(&true)) {
                    return Err(self.unsupported(format!("layer_types of {family}")));
                }
                return Ok(vec![None; n_layers]);
            }
        }
        let default = default.filter(|_| family != Family::SmolLm3);
        let Some(window) = window.or(default).filter(|_| used) else {
            return Ok(vec![None; n_layers]);
        };
        let sliding = match self.layer_types(n_layers)? {
            Some(types) => types,
            None if family == Family::SmolLm3 => rotary.iter().map(|rotary| !rotary).collect(),
            None => {
                let n_full = match self.get("max_window_layers").map(Value::as_u64) {
                    None => 28,
                    Some(n) => n.ok_or_else(|| self.wrong("max_window_layers", "an integer"))?,
                };
                (0..n_layers).map(|layer| layer as u64 >= n_full).collect()
            }
        };
        Ok(sliding
            .into_iter()
            .map(|sliding| sliding.then_some(window))
            .collect())
    }

    /// True where a layer slides.
    fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(types) = self.get("layer_types") else {
            return Ok(None);
        };
        let expected = "a list of full_attention or sliding_attention for every layer";
        let types = types.as_array().filter(|types| types.len() == n_layers);
        let types = types.ok_or_else(|| self.wrong("layer_types", expected))?;
        let mut sliding = Vec::with_capacity(n_layers);
        for name in types {
            sliding.push(match name.as_str() {
                Some("full_attention") => false,
                Some("sliding_attention") => true,
                _ => return Err(self.unsupported(format!("layer_types with {name}"))),
            });
        }
        Ok(Some(sliding))
    }

    /// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` beside each other.
    pub(super) fn rotary(
        &self,
        head_dim: usize,
        theta: f64,
        partial: f64,
    ) -> Result<Rotary, ModelError> {
        let object = |key: &str| {
            self.get(key)
                .map(|value| {
                    value
                        .as_object()
                        .ok_or_else(|| self.wrong(key, "an object"))
                })
                .transpose()
        };
        let empty = Map::new();
        let map = match object("rope_parameters")? {
            Some(map) => map,
            None => object("rope_scaling")?.unwrap_or(&empty),
        };
        let inner = Config {
            map,
            path: self.path,
        };
        let or_outer = |key: &str, old: &str| -> Result<Option<f64>, ModelError> {
            Ok(match inner.positive(key)? {
                Some(number) => Some(number),
                None => match self.positive(key)? {
                    Some(number) => Some(number),
                    None => self.positive(old)?,
                },
            })
        };
        let theta = or_outer("rope_theta", "rotary_emb_base")?.unwrap_or(theta);
        let partial = or_outer("partial_rotary_factor", "rotary_pct")?.unwrap_or(partial);
        if theta <= 1.0 {
            return Err(self.wrong("rope_theta", "above 1"));
        }
        let dims = (head_dim as f64 * partial) as usize;
        if dims == 0 || !dims.is_multiple_of(2) || dims > head_dim {
            let problem = format!("{dims} rotated dimensions of a head of {head_dim}");
            return Err(ModelError::malformed(self.path, problem));
        }
        let scaling = inner.rotary_scaling(self.maybe_size("max_position_embeddings")?)?;
        Ok(Rotary {
            theta,
            dims,
            scaling,
        })
    }

    fn rotary_scaling(&self, max_positions: Option<usize>) -> Result<RotaryScaling, ModelError> {
        let name = match self.text("rope_type")? {
            Some(name) => Some(name),
            None => self.text("type")?,
        };
        let needed = |key: &str| {
            self.positive(key)?
                .ok_or_else(|| self.wrong(key, "a positive number"))
        };
        let original = || match self.positive("original_max_position_embeddings")? {
            Some(original) => Ok(original),
            None => max_positions
                .map(|n| n as f64)
                .ok_or_else(|| self.wrong("original_max_position_embeddings", "a positive number")),
        };
        Ok(match name {
            None if self.map.values().any(Value::is_object) => {
                return Err(self.unsupported("rope_parameters per kind of layer"));
            }
            None | Some("default") => RotaryScaling::None,
            Some("linear") => RotaryScaling::Linear {
                factor: needed("factor")?,
            },
            Some("llama3") => RotaryScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_positions: original()?,
            },
            Some("yarn") => {
                let factor = needed("factor")?;
                let mscale = |scale: f64| match factor > 1.0 {
                    true => 0.1 * scale * factor.ln() + 1.0,
                    false => 1.0,
                };
                let scales = (self.positive("mscale")?, self.positive("mscale_all_dim")?);
                let attention_factor = match (self.positive("attention_factor")?, scales) {
                    (Some(factor), _) => factor,
                    (None, (Some(one), Some(all))) => mscale(one) / mscale(all),
                    (None, _) => mscale(1.0),
                };
                RotaryScaling::Yarn {
                    factor,
                    attention_factor,
                    beta_fast: self.positive("beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.positive("beta_slow")?.unwrap_or(1.0),
                    original_max_positions: original()?,
                    truncate: self.flag("truncate", true)?,
                }
            }
            Some(other) => return Err(self.unsupported(format!("rope_type = {other:?}"))),
        })
    }
}
