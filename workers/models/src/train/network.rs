//! The computation of an architecture as a list of steps over numbered values.
//!
//! 1. [`Network::new`] writes down the steps once, for all families: nothing else knows what an
//!    architecture looks like.
//! 2. `forward.rs` runs the list, and for gradients runs it again from its end.

use std::ops::Range;

use crate::architecture::{
    Activation, Architecture, Layer, NormKind, Placement, Positions, QkNorm,
};
use crate::{ModelError, Part};

use super::kernels::{attention, rotary};
use super::parameters::Places;

/// A value of the computation: so many numbers per token.
pub(crate) type Node = usize;

/// Where a weight stands in the flat vector of parameters.
pub(crate) type Place = Range<usize>;

/// One step. Every node is written by one step (rotation works in place) and may be read by many.
#[derive(Debug)]
pub(crate) enum Step {
    /// The embeddings of tokens, and of positions where they are learned.
    Embed {
        table: Place,
        positions: Option<Place>,
        out: Node,
    },
    /// Normalisation over groups of `width` values.
    Norm {
        kind: NormKind,
        eps: f32,
        width: usize,
        weight: Option<Place>,
        bias: Option<Place>,
        input: Node,
        out: Node,
        stats: Node,
    },
    /// `out = input W^T + b`
    Linear {
        weight: Place,
        bias: Option<Place>,
        input: Node,
        out: Node,
    },
    /// Values cut to `[-limit, limit]`.
    Clamp { limit: f32, input: Node, out: Node },
    /// Rotation by position, in place.
    Rotate {
        node: Node,
        n_heads: usize,
        head_dim: usize,
    },
    /// Causal attention.
    Attend {
        shape: attention::Shape,
        q: Node,
        k: Node,
        v: Node,
        out: Node,
        row_logs: Node,
    },
    /// `out = f(input)`, times `up` where there is one.
    Activate {
        f: Activation,
        input: Node,
        up: Option<Node>,
        out: Node,
    },
    /// `out = a + b`
    Add { a: Node, b: Node, out: Node },
}

/// All steps from tokens to the hidden states that the head reads.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) steps: Vec<Step>,
    /// Numbers per token of every node.
    pub(crate) widths: Vec<usize>,
    /// Nodes that have no gradient: statistics of a forward step.
    pub(crate) without_gradient: Vec<bool>,
    pub(crate) hidden: Node,
    pub(crate) hidden_size: usize,
    pub(crate) head: Place,
    pub(crate) rotary: Option<rotary::Tables>,
    pub(crate) places: Places,
    /// The first step whose weights are trained; those of the steps before stay as they are.
    pub(crate) first_trained: usize,
}

impl Network {
    /// The network of an architecture, for sequences of up to `context` tokens. If layers are frozen, the
    /// first `n_frozen_layers` and the embedding, which then is not the head, are not trained.
    pub(crate) fn new(
        architecture: &Architecture,
        context: usize,
        n_frozen_layers: usize,
    ) -> Result<Self, ModelError> {
        if context > architecture.max_positions {
            return Err(ModelError::input(format!(
                "a context of {context} tokens where the model has {} positions: ask for a shorter context",
                architecture.max_positions
            )));
        }
        let places = Places::new(architecture);
        let rotary = match &architecture.positions {
            Positions::Learned => None,
            Positions::Rotary(rotary) => {
                let (cos, sin) = rotary.tables(context);
                Some(rotary::Tables {
                    dims: rotary.dims,
                    cos,
                    sin,
                })
            }
        };
        let mut builder = Builder {
            architecture,
            places: &places,
            steps: Vec::new(),
            widths: Vec::new(),
            without_gradient: Vec::new(),
        };
        let mut x = builder.embed()?;
        let mut first_trained = 0;
        for (number, layer) in architecture.layers.iter().enumerate() {
            x = builder.layer(x, number, layer)?;
            if number < n_frozen_layers {
                first_trained = builder.steps.len();
            }
        }
        let hidden = builder.norm(x, None, Part::FinalNorm, Part::FinalNormBias);
        let head = builder.weight(
            None,
            if architecture.tied_head {
                Part::Embedding
            } else {
                Part::Head
            },
        )?;
        let Builder {
            steps,
            widths,
            without_gradient,
            ..
        } = builder;
        Ok(Self {
            steps,
            widths,
            without_gradient,
            hidden,
            hidden_size: architecture.hidden_size,
            head,
            rotary,
            places,
            first_trained,
        })
    }

    /// Bytes of values and gradients for one token, without the block of logits.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        let values = self.widths.iter().sum::<usize>();
        let gradients = self
            .widths
            .iter()
            .zip(&self.without_gradient)
            .filter(|(_, without)| !**without)
            .map(|(width, _)| width)
            .sum::<usize>();
        4 * (values + gradients) as u64
    }
}

struct Builder<'a> {
    architecture: &'a Architecture,
    places: &'a Places,
    steps: Vec<Step>,
    widths: Vec<usize>,
    without_gradient: Vec<bool>,
}

impl Builder<'_> {
    fn node(&mut self, width: usize) -> Node {
        self.widths.push(width);
        self.without_gradient.push(false);
        self.widths.len() - 1
    }

    fn statistic(&mut self, width: usize) -> Node {
        let node = self.node(width);
        self.without_gradient[node] = true;
        node
    }

    fn weight(&self, layer: Option<usize>, part: Part) -> Result<Place, ModelError> {
        self.places
            .find(layer, part)
            .ok_or_else(|| ModelError::input(format!("the architecture has no weight {part:?}")))
    }

    fn embed(&mut self) -> Result<Node, ModelError> {
        let table = self.weight(None, Part::Embedding)?;
        let positions = self.places.find(None, Part::PositionEmbedding);
        let out = self.node(self.architecture.hidden_size);
        self.steps.push(Step::Embed {
            table,
            positions,
            out,
        });
        Ok(out)
    }

    fn layer(&mut self, x: Node, number: usize, layer: &Layer) -> Result<Node, ModelError> {
        let here = Some(number);
        let attention_norm = (Part::AttentionNorm, Part::AttentionNormBias);
        let mlp_norm = (Part::MlpNorm, Part::MlpNormBias);
        Ok(match self.architecture.placement {
            Placement::Before => {
                let normal = self.norm(x, here, attention_norm.0, attention_norm.1);
                let attended = self.attention(normal, number, layer)?;
                let x = self.add(x, attended);
                let normal = self.norm(x, here, mlp_norm.0, mlp_norm.1);
                let fed = self.mlp(normal, here)?;
                self.add(x, fed)
            }
            Placement::After => {
                let attended = self.attention(x, number, layer)?;
                let normal = self.norm(attended, here, attention_norm.0, attention_norm.1);
                let x = self.add(x, normal);
                let fed = self.mlp(x, here)?;
                let normal = self.norm(fed, here, mlp_norm.0, mlp_norm.1);
                self.add(x, normal)
            }
            Placement::Parallel => {
                let normal = self.norm(x, here, attention_norm.0, attention_norm.1);
                let attended = self.attention(normal, number, layer)?;
                let normal = self.norm(x, here, mlp_norm.0, mlp_norm.1);
                let fed = self.mlp(normal, here)?;
                let both = self.add(attended, fed);
                self.add(x, both)
            }
        })
    }

    fn attention(&mut self, x: Node, number: usize, layer: &Layer) -> Result<Node, ModelError> {
        let here = Some(number);
        let architecture = self.architecture;
        let (n_heads, n_kv_heads, head_dim) = (
            architecture.n_heads,
            architecture.n_kv_heads,
            architecture.head_dim,
        );
        let mut q = self.linear(
            x,
            here,
            Part::Query,
            Part::QueryBias,
            architecture.query_size(),
        )?;
        let mut k = self.linear(x, here, Part::Key, Part::KeyBias, architecture.kv_size())?;
        let mut v = self.linear(
            x,
            here,
            Part::Value,
            Part::ValueBias,
            architecture.kv_size(),
        )?;
        // OLMo clamps the products; the models that normalise queries and keys do not clamp.
        if let Some(limit) = architecture.clip_qkv {
            for node in [&mut q, &mut k, &mut v] {
                let out = self.node(self.widths[*node]);
                self.steps.push(Step::Clamp {
                    limit,
                    input: *node,
                    out,
                });
                *node = out;
            }
        }
        if architecture.qk_norm != QkNorm::None {
            q = self.norm_qk(q, here, Part::QueryNorm);
            k = self.norm_qk(k, here, Part::KeyNorm);
        }
        if layer.rotary && matches!(architecture.positions, Positions::Rotary(_)) {
            self.steps.push(Step::Rotate {
                node: q,
                n_heads,
                head_dim,
            });
            self.steps.push(Step::Rotate {
                node: k,
                n_heads: n_kv_heads,
                head_dim,
            });
        }
        let shape = attention::Shape {
            n_heads,
            n_kv_heads,
            head_dim,
            window: layer.window,
            scale: layer.attention_scale,
        };
        let out = self.node(architecture.query_size());
        let row_logs = self.statistic(n_heads);
        self.steps.push(Step::Attend {
            shape,
            q,
            k,
            v,
            out,
            row_logs,
        });
        self.linear(
            out,
            here,
            Part::Output,
            Part::OutputBias,
            architecture.hidden_size,
        )
    }

    fn mlp(&mut self, x: Node, here: Option<usize>) -> Result<Node, ModelError> {
        let architecture = self.architecture;
        let inner = architecture.intermediate_size;
        let f = architecture.activation;
        let up = self.linear(x, here, Part::Up, Part::UpBias, inner)?;
        let (input, up) = if architecture.gated {
            (
                self.linear(x, here, Part::Gate, Part::GateBias, inner)?,
                Some(up),
            )
        } else {
            (up, None)
        };
        let out = self.node(inner);
        self.steps.push(Step::Activate { f, input, up, out });
        self.linear(
            out,
            here,
            Part::Down,
            Part::DownBias,
            architecture.hidden_size,
        )
    }

    fn linear(
        &mut self,
        input: Node,
        here: Option<usize>,
        weight: Part,
        bias: Part,
        width: usize,
    ) -> Result<Node, ModelError> {
        let weight = self.weight(here, weight)?;
        let bias = self.places.find(here, bias);
        let out = self.node(width);
        self.steps.push(Step::Linear {
            weight,
            bias,
            input,
            out,
        });
        Ok(out)
    }

    fn norm(&mut self, input: Node, here: Option<usize>, weight: Part, bias: Part) -> Node {
        let norm = self.architecture.norm;
        let (weight, bias) = (self.places.find(here, weight), self.places.find(here, bias));
        self.norm_with(norm.kind, input, self.widths[input], weight, bias)
    }

    fn norm_qk(&mut self, input: Node, here: Option<usize>, weight: Part) -> Node {
        let weight = self.places.find(here, weight);
        let width = match self.architecture.qk_norm {
            QkNorm::PerHead => self.architecture.head_dim,
            QkNorm::Whole | QkNorm::None => self.widths[input],
        };
        self.norm_with(NormKind::Rms, input, width, weight, None)
    }

    fn norm_with(
        &mut self,
        kind: NormKind,
        input: Node,
        width: usize,
        weight: Option<Place>,
        bias: Option<Place>,
    ) -> Node {
        let out = self.node(self.widths[input]);
        let stats = self.statistic(2 * self.widths[input] / width.max(1));
        let eps = self.architecture.norm.eps;
        self.steps.push(Step::Norm {
            kind,
            eps,
            width,
            weight,
            bias,
            input,
            out,
            stats,
        });
        out
    }

    fn add(&mut self, a: Node, b: Node) -> Node {
        let out = self.node(self.widths[a]);
        self.steps.push(Step::Add { a, b, out });
        out
    }
}
